//! The file that travels: a rendered picture or one of the user's, and what the transformer does
//! to it.

use std::fs;
use std::io::BufWriter;
use std::ops::Range;
use std::path::Path;

use crate::error::Error;

/// Size of the rendered picture, in pixels.
const WIDTH: u32 = 1024;
const HEIGHT: u32 = 768;
/// Bytes of the headers of a BMP that we write.
const BMP_HEADER_BYTES: usize = 54;
/// The transformer's band is this part of the file.
const BAND_PART: u64 = 8;
/// A change begins and ends on pages of this size, so that no page is copied for nothing.
const PAGE_BYTES: u64 = 4096;
/// The transformer leaves this much of the beginning alone: headers live there.
pub(crate) const KEPT_BYTES: u64 = PAGE_BYTES;

/// A picture as an uncompressed BMP: rings round two centres, so that a band that is changed
/// shows.
pub(crate) fn render() -> Vec<u8> {
    let row_bytes = WIDTH as usize * 3;
    let pixels = row_bytes * HEIGHT as usize;
    let mut file = Vec::with_capacity(BMP_HEADER_BYTES + pixels);
    file.extend_from_slice(b"BM");
    file.extend_from_slice(&((BMP_HEADER_BYTES + pixels) as u32).to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&(BMP_HEADER_BYTES as u32).to_le_bytes());
    file.extend_from_slice(&40u32.to_le_bytes());
    file.extend_from_slice(&WIDTH.to_le_bytes());
    file.extend_from_slice(&HEIGHT.to_le_bytes());
    file.extend_from_slice(&[1, 0, 24, 0]);
    file.extend_from_slice(&[0; 24]);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            file.extend_from_slice(&pixel(x as f32, y as f32));
        }
    }
    file
}

/// Blue, green and red of a place.
fn pixel(x: f32, y: f32) -> [u8; 3] {
    let ring = |cx: f32, cy: f32| ((x - cx).hypot(y - cy) / 18.0).sin();
    let (left, right) = (ring(340.0, 400.0), ring(700.0, 330.0));
    let shade = y / HEIGHT as f32;
    let channel = |value: f32| (value.clamp(0.0, 1.0) * 255.0) as u8;
    [
        channel(0.55 + 0.35 * left - 0.2 * shade),
        channel(0.45 + 0.25 * (left + right) / 2.0 + 0.2 * shade),
        channel(0.35 + 0.35 * right + 0.25 * shade),
    ]
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
) -> Result<std::path::PathBuf, Error> {
    let path = folder.join(name).with_extension(extension);
    let failed = |path: &Path, source| Error::WriteFile { path: path.to_owned(), source };
    fs::write(&path, bytes).map_err(|source| failed(&path, source))?;
    let Some(picture) = Bmp::parse(bytes) else { return Ok(path) };
    let path = folder.join(name).with_extension("png");
    picture.write_png(&path).map_err(|source| failed(&path, source))?;
    Ok(path)
}

/// An uncompressed BMP of 24 bits a pixel.
struct Bmp<'a> {
    width: usize,
    height: usize,
    /// Rows from the bottom up, each padded to four bytes; a pixel is blue, green, red.
    rows: &'a [u8],
}

impl<'a> Bmp<'a> {
    fn parse(file: &'a [u8]) -> Option<Self> {
        let field =
            |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?) as usize);
        let plain = file.starts_with(b"BM") && file.get(28..34)? == [24, 0, 0, 0, 0, 0];
        let (width, height) = (field(18)?, field(22)?);
        if !plain || !(1..=1 << 15).contains(&width) || !(1..=1 << 15).contains(&height) {
            return None;
        }
        let rows = file.get(field(10)?..)?;
        let picture = Self { width, height, rows };
        (rows.len() >= picture.row_bytes() * height).then_some(picture)
    }

    fn row_bytes(&self) -> usize {
        (self.width * 3).next_multiple_of(4)
    }

    fn write_png(&self, path: &Path) -> std::io::Result<()> {
        let file = BufWriter::new(fs::File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut rgb = Vec::with_capacity(self.width * self.height * 3);
        for row in self.rows.chunks(self.row_bytes()).take(self.height).rev() {
            for pixel in row[..self.width * 3].as_chunks::<3>().0 {
                rgb.extend(pixel.iter().rev());
            }
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&rgb)?;
        Ok(())
    }
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
        let original = render();
        let result = expected(&original);
        let band = band(original.len() as u64);
        for (at, (a, b)) in original.iter().zip(&result).enumerate() {
            assert_eq!(a != b, band.contains(&(at as u64)), "byte {at}");
        }
        assert_eq!(difference(&original, &result), Some(band.start as usize));
    }

    #[test]
    fn what_is_rendered_is_a_picture_and_noise_is_not() {
        let picture = render();
        let parsed = Bmp::parse(&picture).expect("a BMP");
        assert_eq!((parsed.width, parsed.height), (WIDTH as usize, HEIGHT as usize));
        for cut in 0..200 {
            assert!(Bmp::parse(&picture[..cut]).is_none());
        }
    }
}
