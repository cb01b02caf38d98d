//! Reads what trustfed issues with the `spiffe` crate and rustls-webpki.
//!
//! interop verify FOLDER          answers FOLDER/cases.json, one JSON line per case
//! interop watch AUDIENCE COUNT   uses the Workload API at SPIFFE_ENDPOINT_SOCKET until it has seen COUNT X509-SVIDs

mod path;
mod verify;
mod watch;

use std::error::Error;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interop: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["verify", folder] => verify::verify(folder.as_ref()),
        ["watch", audience, count] => watch::watch(audience, count.parse()?).await,
        _ => Err("usage: interop verify FOLDER | watch AUDIENCE COUNT".into()),
    }
}
