//! Commands that do one thing and end.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::path::Path;

use dmrpc_choice::AnyDevice;
use dmrpc_cn::memory::{ALL_RIGHTS, MESSAGE_BODY_BYTES_MAX};
use dmrpc_cn::{Memory, Node, OperationError, Peer, Ref};
use serde_json::json;

use super::error::CliError;
use super::options::{Command, HexRef, Options};
use super::{Place, client_config};

/// One command at work.
struct Session<'n> {
    node: &'n Node<AnyDevice>,
    address: SocketAddrV4,
    peer: Peer,
    memory: Memory<'n, AnyDevice>,
    json: bool,
}

/// Runs a command other than `serve`.
pub(crate) fn run(options: &Options, command: &Command, place: &Place) -> Result<(), CliError> {
    let address = place.memory_node.ok_or(CliError::NoMemoryNode)?;
    // Files first: a wrong name needs no memory node.
    let input = match command {
        Command::Ref { file } | Command::Write { input: file, .. } => read_file(file)?,
        _ => Vec::new(),
    };
    place.pin()?;
    let node = super::open(options, place, &client_config(options, place)?)?;
    let peer = node.connect(address)?;
    let memory = node.memory(peer);
    let session = Session { node: &node, address, peer, memory, json: options.json };
    let result = session.run(command, &input);
    // What is not detached goes back now, not when the lease expires.
    node.disconnect(peer);
    result
}

fn read_file(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |source| CliError::Read { path: path.to_owned(), source };
    let about = fs::metadata(path).map_err(failed)?;
    // A pipe or a device may never end. A directory is refused by the system, in its words.
    if !about.is_file() && !about.is_dir() {
        return Err(CliError::NoFile { path: path.to_owned() });
    }
    let bytes = fs::read(path).map_err(failed)?;
    if bytes.is_empty() {
        return Err(CliError::Empty { path: path.to_owned() });
    }
    Ok(bytes)
}

impl Session<'_> {
    fn run(&self, command: &Command, input: &[u8]) -> Result<(), CliError> {
        match command {
            Command::Ping { count } => self.ping(*count),
            Command::Alloc { size } => self.alloc(size.0),
            Command::Ref { .. } => self.leave(self.memory.put(input)?),
            Command::Map { r#ref } => self.map(&r#ref.0),
            Command::Read { r#ref, offset, length, out } => {
                let length = length.map(|length| length.0);
                self.read(&r#ref.0, offset.0, length, out.as_deref())
            }
            Command::Write { r#ref, offset, .. } => self.write(&r#ref.0, offset.0, input),
            Command::Free { r#ref } => self.free(&r#ref.0),
            Command::Stat => self.stat(),
            Command::Serve(_) => unreachable!("has a loop of its own"),
        }
    }

    /// Prints one line, or one object.
    fn say(&self, text: &str, object: &serde_json::Value) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        let result = if self.json { writeln!(out, "{object}") } else { writeln!(out, "{text}") };
        result.map_err(CliError::Output)
    }

    /// Detaches a reference and prints it.
    fn leave(&self, reference: Ref) -> Result<(), CliError> {
        self.memory.detach(&reference)?;
        let text = HexRef(reference).to_string();
        let said = self.say(&text, &json!({ "ref": text, "size_bytes": reference.length }));
        if said.is_err() {
            // Nobody has its name, so nobody could ever end it. It failed already; if the memory
            // node is gone too, so is the reference.
            let _ = self.end(&reference);
        }
        said
    }

    fn end(&self, reference: &Ref) -> Result<(), OperationError> {
        let claimed = self.memory.claim_ref(reference)?;
        self.memory.drop_ref(&claimed)
    }

    fn ping(&self, count: u32) -> Result<(), CliError> {
        let mut spans_ns = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let start = self.node.now();
            self.node.statistics_page(self.peer, u16::MAX, &mut [])?;
            spans_ns.push(self.node.now().since(start).as_nanos());
        }
        spans_ns.sort_unstable();
        let (first, last) = (spans_ns[0], spans_ns[spans_ns.len() - 1]);
        let median = spans_ns[spans_ns.len() / 2];
        let incarnation = self.node.peer_incarnation(self.peer).unwrap_or_default();
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let text = format!(
            "{count} round trips with {} (incarnation {incarnation}): at least {:.1} us, median \
             {:.1} us, at most {:.1} us",
            self.address,
            micros(first),
            micros(median),
            micros(last),
        );
        let object = json!({
            "op": "ping", "address": self.address.to_string(), "incarnation": incarnation,
            "count": count, "min_ns": first, "p50_ns": median, "max_ns": last,
        });
        self.say(&text, &object)
    }

    fn alloc(&self, size: u64) -> Result<(), CliError> {
        let region = self.memory.alloc(size)?;
        let reference = self.memory.create_ref(region, 0, size, ALL_RIGHTS)?;
        self.leave(reference)?;
        Ok(self.memory.free(region)?)
    }

    fn map(&self, reference: &Ref) -> Result<(), CliError> {
        let region = self.memory.map_ref(reference)?;
        self.memory.free(region)?;
        let mut rights = String::new();
        for (name, _) in reference.rights.iter_names() {
            rights += if rights.is_empty() { "" } else { " " };
            rights += &name.to_lowercase();
        }
        let text = format!(
            "{} bytes in memory node {}, rights: {rights}",
            region.length, reference.memory_node
        );
        let object = json!({
            "op": "map_ref", "size_bytes": region.length,
            "memory_node": reference.memory_node, "rights": rights,
        });
        self.say(&text, &object)
    }

    fn read(
        &self,
        reference: &Ref,
        offset: u64,
        length: Option<u64>,
        out: Option<&Path>,
    ) -> Result<(), CliError> {
        let size = reference.length;
        let length = length.unwrap_or(size.saturating_sub(offset));
        if length == 0 || offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(CliError::Range { offset, length, size });
        }
        let Some(path) = out else {
            let mut stdout = io::stdout().lock();
            let write = |bytes: &[u8]| stdout.write_all(bytes).map_err(CliError::Output);
            return self.copy_out(reference, offset, length, write);
        };
        let failed = |source| CliError::Write { path: path.to_owned(), source };
        let mut file = None;
        self.copy_out(reference, offset, length, |bytes| {
            // Made when there is something to write: a reference that is refused changes no file.
            let file = match &mut file {
                Some(file) => file,
                none => none.insert(fs::File::create(path).map_err(failed)?),
            };
            file.write_all(bytes).map_err(failed)
        })?;
        let text = format!("{length} bytes read into {}", path.display());
        self.say(&text, &json!({ "op": "read_ref", "size_bytes": length }))
    }

    /// Reads a range a message at a time: its length is what the reference claims, so memory for
    /// all of it is nothing to ask for.
    fn copy_out(
        &self,
        reference: &Ref,
        offset: u64,
        length: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let room = length.min(MESSAGE_BODY_BYTES_MAX as u64);
        let mut bytes = vec![0; room as usize];
        let mut done = 0;
        while done < length {
            let part = &mut bytes[..(length - done).min(room) as usize];
            self.memory.read_ref(reference, offset + done, part)?;
            write(part)?;
            done += part.len() as u64;
        }
        Ok(())
    }

    fn write(&self, reference: &Ref, offset: u64, bytes: &[u8]) -> Result<(), CliError> {
        let region = self.memory.map_ref(reference)?;
        self.memory.write(region, offset, bytes)?;
        let changed = self.memory.create_ref(region, 0, region.length, ALL_RIGHTS)?;
        self.leave(changed)?;
        Ok(self.memory.free(region)?)
    }

    fn free(&self, reference: &Ref) -> Result<(), CliError> {
        self.end(reference)?;
        let length = reference.length;
        let text = format!("{length} bytes freed");
        self.say(&text, &json!({ "op": "drop_ref", "size_bytes": length }))
    }

    fn stat(&self) -> Result<(), CliError> {
        let mut object = serde_json::Map::new();
        let mut table = String::new();
        let mut page = [0; 1024];
        for number in 0..u16::MAX {
            let reply = self.node.statistics_page(self.peer, number, &mut page)?;
            let (address, status) = (self.address, reply.status);
            if status != dmrpc_cn::Status::OK {
                return Err(CliError::NoStatistics { address, status });
            }
            if reply.body_bytes == 0 {
                break;
            }
            for line in String::from_utf8_lossy(&page[..reply.body_bytes]).lines() {
                let (name, value) = line.split_once(' ').unwrap_or((line, ""));
                table += &format!("{name:<24} {value:>20}\n");
                let value = value.parse::<u64>().map_or(json!(value), |number| json!(number));
                object.insert(name.to_owned(), value);
            }
        }
        self.say(table.trim_end(), &serde_json::Value::Object(object))
    }
}
