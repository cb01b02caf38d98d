//! Answers cases.json: see tests/interop/artefacts.py for the kinds of cases.

use crate::path;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::{json, Value};
use spiffe::cert::Certificate;
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, TrustDomain, X509Bundle, X509BundleSet, X509Svid};
use std::error::Error;
use std::fs;
use std::path::Path;

struct Verifier<'a> {
    folder: &'a Path,
    x509: X509BundleSet,
    jwt: JwtBundleSet,
}

pub fn verify(folder: &Path) -> Result<(), Box<dyn Error>> {
    let document: Value = serde_json::from_slice(&fs::read(folder.join("cases.json"))?)?;
    let mut verifier = Verifier {
        folder,
        x509: X509BundleSet::new(),
        jwt: JwtBundleSet::new(),
    };
    for (name, file) in document["trust_domains"].as_object().ok_or("no trust domains")? {
        verifier.read(name, file.as_str().ok_or("no file name")?)?;
    }
    for case in document["cases"].as_array().ok_or("no cases")? {
        let (ok, detail) = match verifier.answer(case) {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:?}")),
        };
        println!("{}", json!({"case": case["name"], "ok": ok, "detail": detail}));
    }
    Ok(())
}

impl Verifier<'_> {
    /// The crate has no reader for a whole bundle document: each key goes to its parser by its "use".
    fn read(&mut self, name: &str, file: &str) -> Result<(), Box<dyn Error>> {
        let document: Value = serde_json::from_slice(&fs::read(self.folder.join(file))?)?;
        let mut x509 = X509Bundle::new(TrustDomain::new(name)?);
        let mut jwt = JwtBundle::new(TrustDomain::new(name)?);
        for key in document["keys"].as_array().ok_or("no keys")? {
            match key["use"].as_str() {
                Some("x509-svid") => {
                    let base64 = key["x5c"][0].as_str().ok_or("no x5c")?;
                    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
                    x509.add_authority(&CertificateDer::from_pem_slice(pem.as_bytes())?)?;
                }
                Some("jwt-svid") => jwt.add_jwk_authority_json(&serde_json::to_vec(key)?)?,
                _ => {}
            }
        }
        self.x509.add_bundle(x509);
        self.jwt.add_bundle(jwt);
        Ok(())
    }

    fn answer(&self, case: &Value) -> Result<String, Box<dyn Error>> {
        let text = |name: &str| case[name].as_str().ok_or(format!("the case has no {name}"));
        match text("kind")? {
            "bundle" => self.bundle(text("trust_domain")?),
            "svid" => {
                let chain = self
                    .certificates(text("chain")?)?
                    .iter()
                    .flat_map(|der| der.to_vec())
                    .collect::<Vec<u8>>();
                let key = PrivatePkcs8KeyDer::from_pem_file(self.folder.join(text("key")?))?;
                let svid = X509Svid::parse_from_der(&chain, key.secret_pkcs8_der())?;
                Ok(svid.spiffe_id().to_string())
            }
            "spiffe" => {
                let chain = self.certificates(text("chain")?)?;
                let id = Certificate::try_from(chain[0].as_ref())?.spiffe_id()?;
                let bundle = self
                    .x509
                    .get(id.trust_domain())
                    .ok_or(format!("no bundle of {}", id.trust_domain()))?;
                path::verify(&chain, &authorities(&bundle))?;
                Ok(id.to_string())
            }
            "pkix" => {
                let chain = self.certificates(text("chain")?)?;
                path::verify(&chain, &self.certificates(text("anchors")?)?)?;
                Ok(String::new())
            }
            "jwt" => {
                let audience = [text("audience")?];
                let svid = JwtSvid::parse_and_validate(text("token")?, &self.jwt, &audience)?;
                Ok(svid.spiffe_id().to_string())
            }
            other => Err(format!("unknown kind {other}").into()),
        }
    }

    fn bundle(&self, name: &str) -> Result<String, Box<dyn Error>> {
        let trust_domain = TrustDomain::new(name)?;
        let x509 = self.x509.get(&trust_domain).ok_or("no X.509 bundle")?;
        let jwt = self.jwt.get(&trust_domain).ok_or("no JWT bundle")?;
        let kids: Vec<_> = jwt.jwt_authorities().map(|authority| authority.key_id()).collect();
        Ok(format!("{} {} - -", x509.authorities().len(), kids.join(",")))
    }

    fn certificates(&self, file: &str) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
        let found = CertificateDer::pem_file_iter(self.folder.join(file))?.collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            return Err(format!("{file} holds no certificate").into());
        }
        Ok(found)
    }
}

pub fn authorities(bundle: &X509Bundle) -> Vec<CertificateDer<'_>> {
    bundle
        .authorities()
        .iter()
        .map(|authority| CertificateDer::from(authority.as_bytes()))
        .collect()
}
