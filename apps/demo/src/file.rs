//! The bytes that travel: those of a rendered picture or of a file of the user's, and what the
//! transformer does to them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::picture::{self, Bmp};

/// The transformer's band is this part of the file.
const BAND_PART: u64 = 8;
/// A change begins and ends on pages of this size, so that no page is copied for nothing.
const PAGE_BYTES: u64 = 4096;
/// The transformer leaves this much of the beginning alone: headers live there.
pub(crate) const KEPT_BYTES: u64 = PAGE_BYTES;

/// What travels.
pub(crate) struct Original {
    pub(crate) bytes: Vec<u8>,
    /// The extension to write the bytes out with.
    pub(crate) extension: String,
    /// Whether the bytes are the pixels of a compressed picture, as a BMP.
    pub(crate) decoded: bool,
}

impl Original {
    /// Reads a file, or renders a picture without one. A compressed picture is decoded: its pixels
    /// can be changed in place, its bytes could not.
    ///
    /// # Errors
    /// If the file cannot be read, is no regular file, or is empty.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = path else {
            let (bytes, extension) = (picture::render(), "bmp".to_owned());
            return Ok(Self { bytes, extension, decoded: false });
        };
        let failed = |source| Error::ReadFile { path: path.to_owned(), source };
        let about = fs::metadata(path).map_err(failed)?;
        // A pipe or a device may never end. A directory is refused by the system, in its words.
        if !about.is_file() && !about.is_dir() {
            return Err(Error::NoFile { path: path.to_owned() });
        }
        let bytes = fs::read(path).map_err(failed)?;
        if bytes.is_empty() {
            return Err(Error::EmptyFile { path: path.to_owned() });
        }
        if let Some(bytes) = picture::decode(&bytes) {
            return Ok(Self { bytes, extension: "bmp".to_owned(), decoded: true });
        }
        let extension = path.extension().map_or("bin".into(), |name| name.to_string_lossy());
        Ok(Self { bytes, extension: extension.into_owned(), decoded: false })
    }
}

/// The range that the transformer inverts in a file of `bytes` bytes: a band in the middle, of
/// whole pages where the file has them.
pub(crate) fn band(bytes: u64) -> Range<u64> {
    if bytes <= KEPT_BYTES + PAGE_BYTES {
        return bytes / 2..bytes;
    }
    let pages = (bytes - KEPT_BYTES) / PAGE_BYTES;
    let first = KEPT_BYTES / PAGE_BYTES + pages * 7 / 16;
    let count = (pages / BAND_PART).max(1);
    first * PAGE_BYTES..(first + count) * PAGE_BYTES
}

/// What the transformer does to the bytes of its band.
pub(crate) fn invert(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = !*byte;
    }
}

/// What must come back for `original`.
pub(crate) fn expected(original: &[u8]) -> Vec<u8> {
    let mut result = original.to_vec();
    let band = band(original.len() as u64);
    invert(&mut result[band.start as usize..band.end as usize]);
    result
}

/// The first place where two files differ.
pub(crate) fn difference(a: &[u8], b: &[u8]) -> Option<usize> {
    if a == b {
        return None;
    }
    let place = a.iter().zip(b).position(|(a, b)| a != b);
    Some(place.unwrap_or(a.len().min(b.len())))
}

/// Writes `bytes` to `folder/name.extension`, and beside it as PNG if they are a BMP that we
/// understand. Returns the path to look at.
pub(crate) fn write_out(
    folder: &Path,
    name: &str,
    extension: &str,
    bytes: &[u8],
) -> Result<PathBuf, Error> {
    let path = folder.join(name).with_extension(extension);
    let failed = |path: &Path, source| Error::WriteFile { path: path.to_owned(), source };
    fs::write(&path, bytes).map_err(|source| failed(&path, source))?;
    let Some(picture) = Bmp::parse(bytes) else { return Ok(path) };
    let path = folder.join(name).with_extension("png");
    picture.write_png(&path).map_err(|source| failed(&path, source))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_band_is_in_the_file_and_not_empty() {
        for bytes in (1..40_000).chain([1 << 20, (1 << 23) + 7]) {
            let band = band(bytes);
            assert!(band.start < band.end && band.end <= bytes, "{bytes}: {band:?}");
        }
    }

    #[test]
    fn expected_differs_in_the_band_alone() {
        let original = picture::render();
        let result = expected(&original);
        let band = band(original.len() as u64);
        for (at, (a, b)) in original.iter().zip(&result).enumerate() {
            assert_eq!(a != b, band.contains(&(at as u64)), "byte {at}");
        }
        assert_eq!(difference(&original, &result), Some(band.start as usize));
    }
}
