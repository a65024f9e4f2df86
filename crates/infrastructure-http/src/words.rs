//! Settings that are lists of words.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Words as a list, or in one text with commas or spaces in between, as environment variables have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Words(Vec<String>);

impl Words {
    /// These words.
    pub fn of<const N: usize>(words: [&str; N]) -> Self {
        Self(words.map(str::to_owned).to_vec())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True for one of them.
    #[must_use]
    pub fn contains(&self, word: &str) -> bool {
        self.iter().any(|own| own == word)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reads;
        impl<'de> Visitor<'de> for Reads {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of words, or a text of words with commas in between")
            }

            fn visit_str<E>(self, text: &str) -> Result<Words, E> {
                let words = text.split([',', ' ']).filter(|word| !word.is_empty());
                Ok(Words(words.map(str::to_owned).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(Words(words))
            }
        }
        deserializer.deserialize_any(Reads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_a_list_or_a_text() {
        for text in [r#"["a:1","b"]"#, r#""a:1,b""#, r#"" a:1  b ,""#] {
            assert_eq!(serde_json::from_str::<Words>(text).unwrap(), Words::of(["a:1", "b"]));
        }
        assert!(serde_json::from_str::<Words>("7").is_err());
    }
}
