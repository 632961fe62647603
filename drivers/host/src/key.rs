//! The pre-shared key of a process, from a file or the environment, and random bytes.
//!
//! A key is never the value of a flag: command lines are for everybody to read.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use dmrpc_core::endpoint::auth::{Key, KeyError};

/// The variable that may hold the key itself.
pub const KEY_VARIABLE: &str = "DMRPC_KEY";

/// The key in `file`, else that in the environment variable `DMRPC_KEY`, else none. Line ends
/// after it do not count.
///
/// # Errors
/// The file cannot be read, or the key is too short.
pub fn load(file: Option<&Path>) -> Result<Option<Key>, KeyLoadError> {
    if let Some(path) = file {
        let bytes = std::fs::read(path)
            .map_err(|source| KeyLoadError::Read { path: path.to_owned(), source })?;
        return parse(&bytes, || path.display().to_string()).map(Some);
    }
    match std::env::var_os(KEY_VARIABLE) {
        Some(value) => parse(value.as_encoded_bytes(), || KEY_VARIABLE.to_owned()).map(Some),
        None => Ok(None),
    }
}

fn parse(bytes: &[u8], place: impl FnOnce() -> String) -> Result<Key, KeyLoadError> {
    let ends = bytes.iter().rev().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
    Key::new(&bytes[..bytes.len() - ends])
        .map_err(|source| KeyLoadError::Short { place: place(), source })
}

/// Random bytes for an endpoint's life.
///
/// # Errors
/// The system gives none.
pub fn random_secret() -> io::Result<[u8; 16]> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(io::Error::from)?;
    Ok(secret)
}

/// Why there is no key.
#[derive(Debug)]
pub enum KeyLoadError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Too short.
    Short {
        /// File or variable.
        place: String,
        /// How short.
        source: KeyError,
    },
}

impl fmt::Display for KeyLoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => {
                let path = path.display();
                write!(
                    f,
                    "key file {path} cannot be read: {source}; name one that this user may read"
                )
            }
            Self::Short { place, source } => {
                write!(f, "{place}: {source}; make one with: head -c 32 /dev/urandom | base64")
            }
        }
    }
}

impl std::error::Error for KeyLoadError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_do_not_count_and_short_keys_are_named() {
        let secret = b"sixteen bytes and more";
        let place = || "x".to_owned();
        let key = parse(secret, place).unwrap();
        assert_eq!(parse(b"sixteen bytes and more\r\n", place).unwrap(), key);
        let text = parse(b"short\n", || "DMRPC_KEY".to_owned()).unwrap_err().to_string();
        assert!(text.starts_with("DMRPC_KEY: a key of 5 bytes; at least 16"), "{text}");
        let text = load(Some(Path::new("/no/such/file"))).unwrap_err().to_string();
        assert!(text.starts_with("key file /no/such/file cannot be read"), "{text}");
    }

    #[test]
    fn secrets_differ() {
        assert_ne!(random_secret().unwrap(), random_secret().unwrap());
    }
}
