//! Says who listens on a port: `cargo run -p thv-audit --example who_listens -- 8080`.
#![allow(clippy::print_stdout)]

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).ok_or("name a port")?.parse()?;
    let holders = thv_audit::holders(port)?;
    if holders.is_empty() {
        println!("nobody listens on port {port}");
    }
    for holder in holders {
        println!("{holder}");
    }
    Ok(())
}
