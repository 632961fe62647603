//! What the fuzz targets do with their bytes, as plain functions: they panic where something that
//! must hold does not.

#![forbid(unsafe_code)]

mod bytes;
pub mod client;
mod device;
pub mod pool;
pub mod port;
pub mod server;
pub mod store;
pub mod wire;
