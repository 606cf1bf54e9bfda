//! Operating systems without a keychain that this program knows.

use std::convert::Infallible;

use zeroize::Zeroizing;

use super::fault::{Failure, KeychainFault};

pub(super) struct Session(Infallible);

fn unavailable() -> Failure {
    KeychainFault::Unavailable { reason: "this operating system has none".to_owned() }.into()
}

pub(super) fn unlock(_seconds: u64) -> Result<(), Failure> {
    Err(unavailable())
}

impl Session {
    pub(super) fn open() -> Result<Self, Failure> {
        Err(unavailable())
    }

    pub(super) fn probe(&self) -> Result<(), Failure> {
        match self.0 {}
    }

    pub(super) fn get(&self, _service: &str, _name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        match self.0 {}
    }

    pub(super) fn set(&self, _service: &str, _name: &str, _text: &[u8]) -> Result<(), Failure> {
        match self.0 {}
    }

    pub(super) fn delete(&self, _service: &str, _name: &str) -> Result<bool, Failure> {
        match self.0 {}
    }

    pub(super) fn items(&self, _service: &str) -> Result<Option<Vec<String>>, Failure> {
        match self.0 {}
    }

    pub(super) fn name(&self, _item: &str) -> Result<Option<String>, Failure> {
        match self.0 {}
    }
}
