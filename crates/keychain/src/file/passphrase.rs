//! A master key derived from a passphrase with argon2id.

use std::sync::{Mutex, MutexGuard, PoisonError};

use argon2::{Algorithm, Argon2, Params, Version};
use getrandom::SysRng;
use rand_core::TryRng as _;
use zeroize::Zeroizing;

use super::{MasterKey, StoreKey, Wanted};
use crate::{Secret, StoreError};

/// The kind in the header of a file.
const ARGON2ID: u8 = 1;

/// What one derivation costs, and so each guess at the passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Cost {
    /// The most that is computed for a file whose header may have been forged.
    const MAX: Self = Self { memory: 256 << 10, passes: 16, lanes: 16 };

    fn params(self) -> Option<Params> {
        let Self { memory, passes, lanes } = Self::MAX;
        let bearable = self.memory <= memory && self.passes <= passes && self.lanes <= lanes;
        Params::new(self.memory, self.passes, self.lanes, Some(32)).ok().filter(|_| bearable)
    }
}

impl Default for Cost {
    /// The second recommendation of RFC 9106, section 4: 64 MiB, 3 passes, 4 lanes.
    fn default() -> Self {
        Self { memory: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// How a passphrase becomes a key: cost and salt, which stand in the header of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derivation {
    cost: Cost,
    salt: [u8; 16],
}

impl Derivation {
    /// Reads 30 bytes of a header; `None` for a key that is not derived.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<Self>, ()> {
        let (kind, rest) = bytes.split_at_checked(2).ok_or(())?;
        match kind {
            [0, 0] if rest.iter().all(|byte| *byte == 0) => Ok(None),
            [ARGON2ID, 0] => {
                let (params, salt) = rest.split_at_checked(12).ok_or(())?;
                let number =
                    |n: usize| params[n..n + 4].iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
                let cost = Cost { memory: number(0), passes: number(4), lanes: number(8) };
                cost.params().ok_or(())?;
                Ok(Some(Self { cost, salt: salt.try_into().map_err(|_| ())? }))
            }
            _ => Err(()),
        }
    }

    /// Writes them.
    pub(super) fn write(&self, bytes: &mut [u8]) {
        bytes[..2].copy_from_slice(&[ARGON2ID, 0]);
        let Cost { memory, passes, lanes } = self.cost;
        for (chunk, number) in bytes[2..14].chunks_mut(4).zip([memory, passes, lanes]) {
            chunk.copy_from_slice(&number.to_be_bytes());
        }
        bytes[14..].copy_from_slice(&self.salt);
    }

    fn derive(self, text: &Secret) -> Result<StoreKey, StoreError> {
        let params = self.cost.params().ok_or(StoreError::Derivation)?;
        let mut raw = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(text.expose(), &self.salt, &mut *raw)
            .map_err(|_| StoreError::Derivation)?;
        Ok(StoreKey::derived(&raw, Some(self)))
    }
}

/// A master key that a person knows the passphrase of.
///
/// A key that has opened the file is kept in memory until this is dropped, so that it is derived once. One that has
/// not is forgotten at once, so a mistyped passphrase is not remembered.
pub struct Passphrase {
    text: Option<Secret>,
    cost: Cost,
    proved: Mutex<Option<StoreKey>>,
}

impl Passphrase {
    /// Takes a passphrase that was asked for. Whether it is good enough is the business of who asks.
    #[must_use]
    pub fn new(text: Secret) -> Self {
        Self { text: Some(text), cost: Cost::default(), proved: Mutex::default() }
    }

    /// For a process with nobody to ask: only a cache can help it.
    #[must_use]
    pub fn unknown() -> Self {
        Self { text: None, cost: Cost::default(), proved: Mutex::default() }
    }

    /// Another cost, for a file that has yet to be made.
    #[must_use]
    pub fn with_cost(self, cost: Cost) -> Self {
        Self { cost, ..self }
    }

    fn text(&self) -> Result<&Secret, StoreError> {
        self.text.as_ref().ok_or(StoreError::PassphraseNeeded)
    }

    fn known(&self) -> MutexGuard<'_, Option<StoreKey>> {
        self.proved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MasterKey for Passphrase {
    fn load(&self, wanted: Option<&Wanted>) -> Result<Option<StoreKey>, StoreError> {
        let Some(Wanted { id, derivation: Some(derivation) }) = wanted else {
            return Ok(None);
        };
        let same = |key: &&StoreKey| key.id() == *id && key.derivation() == Some(*derivation);
        if let Some(key) = self.known().as_ref().filter(same) {
            return Ok(Some(StoreKey::derived(key.expose_bytes(), key.derivation())));
        }
        derivation.derive(self.text()?).map(Some)
    }

    fn create(&self) -> Result<StoreKey, StoreError> {
        let mut salt = [0; 16];
        SysRng.try_fill_bytes(&mut salt).map_err(|error| StoreError::Random(error.into()))?;
        Derivation { cost: self.cost, salt }.derive(self.text()?)
    }

    fn proved(&self, key: &StoreKey) {
        *self.known() = Some(StoreKey::derived(key.expose_bytes(), key.derivation()));
    }

    fn derives(&self) -> bool {
        true
    }

    fn place(&self) -> String {
        "a passphrase".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory: 8, passes: 1, lanes: 1 };

    /// From the reference implementation, `argon2 somesaltsomesalt -id -t 2 -k 1024 -p 2 -l 32`.
    #[test]
    fn the_parameters_are_those_of_argon2id() {
        let cost = Cost { memory: 1024, passes: 2, lanes: 2 };
        let derivation = Derivation { cost, salt: *b"somesaltsomesalt" };
        let key = derivation.derive(&Secret::from_text("password")).unwrap();
        let hex: String = key.expose_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "136523b6b0d30a0231e267e9a90f46c0bcef69bb90b9509cc22b2a0516d223ee");
    }

    #[test]
    fn a_header_gives_back_what_was_written() {
        let derivation = Derivation { cost: CHEAP, salt: [9; 16] };
        let mut bytes = [0; 30];
        derivation.write(&mut bytes);
        assert_eq!(Derivation::read(&bytes), Ok(Some(derivation)));
        assert_eq!(Derivation::read(&[0; 30]), Ok(None));
    }

    #[test]
    fn headers_that_nobody_writes_are_refused() {
        let mut bytes = [0; 30];
        Derivation { cost: CHEAP, salt: [9; 16] }.write(&mut bytes);
        for (at, byte) in [(0, 0), (0, 2), (1, 1), (2, 1), (9, 0), (6, 1), (13, 0), (13, 17)] {
            let mut changed = bytes;
            changed[at] = byte;
            assert_eq!(Derivation::read(&changed), Err(()), "{at} {byte}");
        }
        assert_eq!(Derivation::read(&bytes[..13]), Err(()));
    }

    #[test]
    fn without_a_passphrase_nothing_is_derived() {
        let nobody = Passphrase::unknown();
        assert!(matches!(nobody.create(), Err(StoreError::PassphraseNeeded)));
        assert!(nobody.load(None).unwrap().is_none());
    }
}
