//! Both halves of the server proof in one process: a listener shows that it holds the key.
#![allow(clippy::print_stdout)]

use thv_keygen::proof::{self, Challenge, Endpoints};
use thv_keygen::{Name, SharedKey};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = SharedKey::generate()?;
    let name = Name::parse("time")?;
    let ends = Endpoints { client: "127.0.0.1:50000".parse()?, server: "127.0.0.1:41873".parse()? };

    let challenge = Challenge::generate()?;
    let answer = proof::prove(&key, &name, &ends, &challenge);
    println!("key {} answers {} with {}", key.id(), challenge.encode(), answer.encode());
    println!("verified: {}", proof::verify(&key, &name, &ends, &challenge, &answer));

    let elsewhere = Endpoints { client: "127.0.0.1:50001".parse()?, ..ends };
    println!("on another connection: {}", proof::verify(&key, &name, &elsewhere, &challenge, &answer));
    Ok(())
}
