//! RFC 5280 path validation by rustls-webpki: the `spiffe` crate parses SVIDs but leaves their verification to rustls.

use rustls_pki_types::{CertificateDer, UnixTime};
use std::error::Error;
use webpki::{anchor_from_trusted_cert, ring, EndEntityCert, KeyUsage};

/// Verifies a chain (leaf first) against anchors, as a TLS client verifies a server, without a host name.
pub fn verify(chain: &[CertificateDer<'_>], anchors: &[CertificateDer<'_>]) -> Result<(), Box<dyn Error>> {
    let (leaf, intermediates) = chain.split_first().ok_or("the chain is empty")?;
    let anchors = anchors
        .iter()
        .map(anchor_from_trusted_cert)
        .collect::<Result<Vec<_>, _>>()?;
    EndEntityCert::try_from(leaf)?.verify_for_usage(
        &[ring::ECDSA_P256_SHA256],
        &anchors,
        intermediates,
        UnixTime::now(),
        KeyUsage::server_auth(),
        None,
        None,
    )?;
    Ok(())
}

/// The serial number in hexadecimal, 32 digits.
pub fn serial(certificate: &CertificateDer<'_>) -> Result<String, Box<dyn Error>> {
    let leaf = EndEntityCert::try_from(certificate)?;
    let digits: String = leaf.serial().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{:0>32}", digits.trim_start_matches('0')))
}
