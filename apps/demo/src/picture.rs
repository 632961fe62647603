//! Pictures: one that is rendered, those that are decoded, and the format in which they travel.

use std::fs;
use std::io::{BufWriter, Cursor};
use std::path::Path;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Size of the rendered picture, in pixels.
const WIDTH: u32 = 1024;
const HEIGHT: u32 = 768;
/// Bytes of the headers of a BMP that we write.
const BMP_HEADER_BYTES: usize = 54;
/// A picture as an uncompressed BMP: rings round two centres, so that a band that is changed
/// shows.
pub(crate) fn render() -> Vec<u8> {
    let mut file = bmp_headers(WIDTH, HEIGHT);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            file.extend_from_slice(&pixel(x as f32, y as f32));
        }
    }
    file
}

/// The headers of a BMP of 24 bits a pixel, with room behind them for the rows.
fn bmp_headers(width: u32, height: u32) -> Vec<u8> {
    let pixels = row_bytes(width as usize) * height as usize;
    let mut file = Vec::with_capacity(BMP_HEADER_BYTES + pixels);
    file.extend_from_slice(b"BM");
    file.extend_from_slice(&((BMP_HEADER_BYTES + pixels) as u32).to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&(BMP_HEADER_BYTES as u32).to_le_bytes());
    file.extend_from_slice(&40u32.to_le_bytes());
    file.extend_from_slice(&width.to_le_bytes());
    file.extend_from_slice(&height.to_le_bytes());
    file.extend_from_slice(&[1, 0, 24, 0]);
    file.extend_from_slice(&[0; 24]);
    file
}

/// Bytes of a row of a BMP: padded to four.
fn row_bytes(width: usize) -> usize {
    (width * 3).next_multiple_of(4)
}

/// The pixels of a JPEG or PNG as a BMP; `None` for anything else, and for what is damaged.
pub(crate) fn decode(file: &[u8]) -> Option<Vec<u8>> {
    let (width, height, rgb) = if file.starts_with(&[0xff, 0xd8, 0xff]) {
        decode_jpeg(file)?
    } else if file.starts_with(b"\x89PNG") {
        decode_png(file)?
    } else {
        return None;
    };
    let mut bmp = bmp_headers(width as u32, height as u32);
    for row in rgb.chunks_exact(width * 3).rev() {
        for pixel in row.as_chunks::<3>().0 {
            bmp.extend(pixel.iter().rev());
        }
        bmp.resize(bmp.len() + row_bytes(width) - width * 3, 0);
    }
    Some(bmp)
}

/// Width, height and the bytes of red, green and blue, from the top row down.
type Rgb = (usize, usize, Vec<u8>);

fn decode_jpeg(file: &[u8]) -> Option<Rgb> {
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    let rgb = decoder.decode().ok()?;
    let (width, height) = decoder.dimensions()?;
    (rgb.len() == width * height * 3).then_some((width, height, rgb))
}

fn decode_png(file: &[u8]) -> Option<Rgb> {
    let mut decoder = png::Decoder::new(Cursor::new(file));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().ok()?;
    let mut pixels = vec![0; reader.output_buffer_size()?];
    let frame = reader.next_frame(&mut pixels).ok()?;
    pixels.truncate(frame.buffer_size());
    let rgb = match frame.color_type {
        png::ColorType::Rgb => pixels,
        png::ColorType::Rgba => {
            pixels.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect()
        }
        png::ColorType::Grayscale => pixels.iter().flat_map(|&shade| [shade; 3]).collect(),
        png::ColorType::GrayscaleAlpha => {
            pixels.as_chunks::<2>().0.iter().flat_map(|&[shade, _]| [shade; 3]).collect()
        }
        png::ColorType::Indexed => return None,
    };
    Some((frame.width as usize, frame.height as usize, rgb))
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

/// An uncompressed BMP of 24 bits a pixel.
pub(crate) struct Bmp<'a> {
    width: usize,
    height: usize,
    /// Rows from the bottom up, each padded to four bytes; a pixel is blue, green, red.
    rows: &'a [u8],
}

impl<'a> Bmp<'a> {
    pub(crate) fn parse(file: &'a [u8]) -> Option<Self> {
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
        row_bytes(self.width)
    }

    pub(crate) fn write_png(&self, path: &Path) -> std::io::Result<()> {
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
    fn what_is_rendered_is_a_picture_and_noise_is_not() {
        let picture = render();
        let parsed = Bmp::parse(&picture).expect("a BMP");
        assert_eq!((parsed.width, parsed.height), (WIDTH as usize, HEIGHT as usize));
        for cut in 0..200 {
            assert!(Bmp::parse(&picture[..cut]).is_none());
        }
    }

    /// A PNG of one's own making comes back, pixel by pixel, as a BMP; so does one of odd width.
    #[test]
    fn a_png_decodes_to_its_pixels() {
        for (width, height) in [(1, 1), (3, 2), (4, 5), (7, 3)] {
            let rgb: Vec<u8> = (0..width * height * 3).map(|at| (at * 37 % 251) as u8).collect();
            let mut file = Vec::new();
            let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
            encoder.set_color(png::ColorType::Rgb);
            let mut writer = encoder.write_header().expect("a header");
            writer.write_image_data(&rgb).expect("pixels");
            writer.finish().expect("an end");
            let bmp = decode(&file).expect("a PNG");
            let parsed = Bmp::parse(&bmp).expect("a BMP");
            assert_eq!((parsed.width, parsed.height), (width, height));
            for (y, row) in parsed.rows.chunks(parsed.row_bytes()).rev().enumerate() {
                for x in 0..width {
                    let pixel = [row[3 * x + 2], row[3 * x + 1], row[3 * x]];
                    let at = 3 * (y * width + x);
                    assert_eq!(pixel, rgb[at..at + 3], "{width}x{height} at {x},{y}");
                }
            }
        }
    }

    #[test]
    fn what_is_damaged_is_no_picture() {
        for file in [&b"\xff\xd8\xff\xe0"[..], b"\x89PNG\r\n\x1a\n", b"\x89PNG", b"text", b""] {
            assert!(decode(file).is_none());
        }
    }
}
