//! Uses every method of the Workload API, then watches the X509-SVID rotate on an `X509Source`.

use crate::{path, verify};
use rustls_pki_types::CertificateDer;
use serde_json::json;
use spiffe::{JwtSvid, TrustDomain, WorkloadApiClient, X509Context, X509Source};
use std::collections::BTreeSet;
use std::error::Error;
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

pub async fn watch(audience: &str, count: usize) -> Result<(), Box<dyn Error>> {
    let client = WorkloadApiClient::connect_env().await?;

    let x509 = client.fetch_x509_bundles().await?;
    println!(
        "{}",
        json!({"event": "x509-bundles", "bundles": names(x509.iter().map(|(name, _)| name))})
    );
    let jwt = client.fetch_jwt_bundles().await?;
    println!(
        "{}",
        json!({"event": "jwt-bundles", "bundles": names(jwt.iter().map(|(name, _)| name))})
    );

    let svid = client.fetch_jwt_svid([audience], None).await?;
    let local = JwtSvid::parse_and_validate(svid.token(), &jwt, &[audience])?;
    let validated = client.validate_jwt_token(audience, svid.token()).await?;
    println!(
        "{}",
        json!({"event": "jwt", "id": svid.spiffe_id().to_string(), "local": local.spiffe_id().to_string(),
               "validated": validated.spiffe_id().to_string()})
    );
    let refusal = client
        .validate_jwt_token(&format!("{audience}/another"), svid.token())
        .await;
    let detail = refusal.as_ref().err().map(ToString::to_string).unwrap_or_default();
    println!(
        "{}",
        json!({"event": "jwt-refused", "refused": refusal.is_err(), "detail": detail})
    );

    let source = timeout(PATIENCE, X509Source::new()).await??;
    let mut updates = source.updated();
    let mut serials = BTreeSet::new();
    let mut last = String::new();
    while serials.len() < count {
        if !last.is_empty() {
            timeout(PATIENCE, updates.changed()).await??;
        }
        let (serial, line) = judge(source.x509_context()?.as_ref())?;
        serials.insert(serial);
        if line != last {
            println!("{line}");
            last = line;
        }
    }
    source.shutdown().await;
    Ok(())
}

/// Verifies the pushed SVID against the bundle of its domain pushed with it; gives its serial and what to print.
fn judge(context: &X509Context) -> Result<(String, String), Box<dyn Error>> {
    let svid = context.default_svid().ok_or("no SVID")?;
    let id = svid.spiffe_id();
    let bundle = context
        .bundle_set()
        .get(id.trust_domain())
        .ok_or("no bundle of the SVID's domain")?;
    let chain: Vec<_> = svid
        .cert_chain()
        .iter()
        .map(|certificate| CertificateDer::from(certificate.as_bytes()))
        .collect();
    path::verify(&chain, &verify::authorities(&bundle))?;
    let serial = path::serial(&chain[0])?;
    let bundles = names(context.bundle_set().iter().map(|(name, _)| name));
    let line = json!({"event": "x509", "id": id.to_string(), "serial": serial, "bundles": bundles,
                      "authorities": bundle.authorities().len(), "chain": chain.len()});
    Ok((serial, line.to_string()))
}

fn names<'a>(trust_domains: impl Iterator<Item = &'a TrustDomain>) -> Vec<String> {
    let sorted: BTreeSet<String> = trust_domains.map(|name| name.as_str().to_string()).collect();
    sorted.into_iter().collect()
}
