//! Tells what each line of standard input is: `printf '{"jsonrpc":"2.0","id":1,"method":"ping"}\n' | cargo run
//! --example peek`.

#![allow(clippy::print_stdout)]

use std::io::{self, Read};

use thv_wire::lines::LineDecoder;
use thv_wire::message::{self, Incoming};

fn main() -> io::Result<()> {
    let mut decoder = LineDecoder::new(16 * 1024 * 1024);
    let mut chunk = [0; 8 * 1024];
    loop {
        let count = io::stdin().read(&mut chunk)?;
        decoder.push(&chunk[..count]);
        while let Some(line) = decoder.next_line() {
            tell(line);
        }
        if count == 0 {
            if let Some(line) = decoder.finish() {
                tell(line);
            }
            return Ok(());
        }
    }
}

fn tell(line: Result<bytes::Bytes, thv_wire::lines::LineError>) {
    let line = match line {
        Ok(line) => line,
        Err(error) => return println!("{error}"),
    };
    match message::peek(&line) {
        Ok(Incoming::One(peek)) => {
            println!("{:?} id={:?} method={:?}, {} bytes", peek.kind, peek.id, peek.method, line.len());
        }
        Ok(Incoming::Batch(parts)) => println!("a batch of {}", parts.len()),
        Err(error) => println!("{error}"),
    }
}
