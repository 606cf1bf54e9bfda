//! Key sets on their way between two processes of ours: through a pipe or the control socket, never to disk.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thv_keygen::{KeySet, LiveKey, Name, SharedKey};
use zeroize::Zeroizing;

/// A key set as text. Its keys are wiped when it is dropped.
#[derive(Serialize, Deserialize)]
pub struct KeySetText(Vec<KeyText>);

#[derive(Serialize, Deserialize)]
struct KeyText {
    key: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<u64>,
}

/// A text that is no key set. It does not say which part, since the parts are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a key set")]
pub struct KeySetError;

impl From<&KeySet> for KeySetText {
    fn from(set: &KeySet) -> Self {
        let text = |live: &LiveKey| KeyText {
            key: live.key().expose_text(),
            label: live.label().map(|label| label.as_str().to_owned()),
            ends: live.ends().map(|end| {
                let since = end.duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
        };
        Self(set.iter().map(text).collect())
    }
}

impl TryFrom<&KeySetText> for KeySet {
    type Error = KeySetError;

    fn try_from(text: &KeySetText) -> Result<Self, KeySetError> {
        let live = |text: &KeyText| {
            let key = SharedKey::parse(text.key.as_bytes()).map_err(|_| KeySetError)?;
            let label = text.label.as_deref().map(Name::parse).transpose().map_err(|_| KeySetError)?;
            let ends: Option<SystemTime> = text.ends.map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
            Ok(LiveKey::new(key, label, ends))
        };
        Ok(Self::new(text.0.iter().map(live).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_the_way_and_damage_is_refused_without_a_word_of_it() {
        let end = UNIX_EPOCH + Duration::from_millis(1_234_567);
        let key = |n| SharedKey::from_bytes([n; 32]);
        let set = KeySet::new(vec![
            LiveKey::new(key(1), None, None),
            LiveKey::new(key(2), Some(Name::parse("Cursor").unwrap()), Some(end)),
        ]);
        let json = serde_json::to_string(&KeySetText::from(&set)).unwrap();
        let text: KeySetText = serde_json::from_str(&json).unwrap();
        let again = KeySet::try_from(&text).unwrap();
        let view = |set: &KeySet| {
            set.iter()
                .map(|k| (k.id(), k.label().map(|l| l.as_str().to_owned()), k.ends()))
                .collect::<Vec<_>>()
        };
        assert_eq!(view(&again), view(&set));

        let bad: KeySetText = serde_json::from_str(r#"[{"key":"c2VjcmV0"}]"#).unwrap();
        assert_eq!(KeySet::try_from(&bad).err(), Some(KeySetError));
        assert!(!KeySetError.to_string().contains("c2VjcmV0"));
    }
}
