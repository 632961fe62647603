//! Every parser of bytes from the wire: none panics, and what one accepts it writes back the same.

use dmrpc_core::crc32c::Crc32c;
use dmrpc_core::wire::control::{Beyond, Challenge, Hello, HelloAck, Refusal};
use dmrpc_core::wire::memory_op::{
    MemoryError, STEP_BYTES, STEPS_MAX, Steps, emit_steps, parse_failure,
};
use dmrpc_core::wire::message::{
    ARGS_MAX, ArgEntry, Arguments, REQUEST_HEADER_BYTES, RESPONSE_HEADER_BYTES, RequestHeader,
    ResponseHeader, Status, arguments_bytes, emit_arguments,
};
use dmrpc_core::wire::packet::{HEADER_BYTES, Header};
use dmrpc_core::wire::reference::{REF_BYTES, Ref};

/// Gives `data` to every parser.
pub fn run(data: &[u8]) {
    packet(data);
    control(data);
    messages(data);
    steps(data);
}

fn packet(data: &[u8]) {
    let crc = Crc32c::detect();
    let _ = Header::parse(data, crc);
    // The same with a right checksum and length, so that what lies behind them is reached.
    let mut bytes = data.to_vec();
    bytes.resize(data.len().max(HEADER_BYTES), 0);
    bytes.truncate(HEADER_BYTES + usize::from(u16::MAX));
    bytes[0] = 1;
    let payload = (bytes.len() - HEADER_BYTES) as u16;
    bytes[34..36].copy_from_slice(&payload.to_le_bytes());
    for covered in [false, true] {
        let mut bytes = bytes.clone();
        bytes[2] = bytes[2] & !1 | u8::from(covered);
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().expect("a header");
        let check = crc.packet(header, if covered { payload } else { &[] });
        bytes[44..48].copy_from_slice(&check.to_le_bytes());
        if let Ok(header) = Header::parse(&bytes, crc) {
            let mut again = bytes.clone();
            again[..HEADER_BYTES].fill(0xEE);
            header.emit(&mut again, crc);
            assert_eq!(again, bytes, "{header:?}");
        }
    }
}

fn control(data: &[u8]) {
    if let Ok(challenge) = Challenge::parse(data) {
        assert_eq!(challenge.to_bytes(), data);
    }
    if let Ok(hello) = Hello::parse(data) {
        assert_eq!(Hello::parse(&hello.to_bytes()), Ok(hello));
    }
    if let Ok(ack) = HelloAck::parse(data) {
        assert_eq!(HelloAck::parse(&ack.to_bytes()), Ok(ack));
    }
    if let Ok(beyond) = Beyond::parse(data)
        && !data.is_empty()
    {
        assert_eq!(beyond.to_bytes(), data);
    }
    let _ = Refusal::parse(data);
}

fn messages(data: &[u8]) {
    if let Ok(header) = RequestHeader::parse(data) {
        let mut bytes = [0xEE; REQUEST_HEADER_BYTES];
        header.emit(&mut bytes);
        assert_eq!(RequestHeader::parse(&bytes), Ok(header));
        arguments(header.args, &data[REQUEST_HEADER_BYTES..]);
    }
    if let Ok(header) = ResponseHeader::parse(data) {
        let mut bytes = [0xEE; RESPONSE_HEADER_BYTES];
        header.emit(&mut bytes);
        assert_eq!(ResponseHeader::parse(&bytes), Ok(header));
        arguments(header.args, &data[RESPONSE_HEADER_BYTES..]);
    }
    if let Some(bytes) = data.first_chunk::<REF_BYTES>()
        && let Ok(reference) = Ref::parse(bytes)
    {
        assert_eq!(reference.to_bytes(), *bytes);
    }
}

fn arguments(count: u8, after_header: &[u8]) {
    let Ok(arguments) = Arguments::parse(count, after_header) else { return };
    let all: Vec<ArgEntry> = arguments.iter().collect();
    assert_eq!(all.len(), usize::from(count));
    assert!(all.len() <= ARGS_MAX);
    let refs = all.iter().filter(|arg| matches!(arg, ArgEntry::Ref(_))).count();
    assert_eq!(arguments.refs().count(), refs);
    let bytes = arguments_bytes(&all);
    assert_eq!(bytes + arguments.parameters().len(), after_header.len());
    let mut out = vec![0xEE; bytes];
    assert_eq!(emit_arguments(&all, &mut out), bytes);
    let again = Arguments::parse(count, &out).expect("what was written");
    assert!(again.iter().eq(all));
}

fn steps(data: &[u8]) {
    if let Ok(steps) = Steps::parse(data) {
        let all: Vec<_> = steps.iter().collect();
        assert_eq!(all.len() * STEP_BYTES, data.len());
        let mut out = [0; STEPS_MAX * STEP_BYTES];
        let bytes = emit_steps(&all, &mut out);
        assert!(Steps::parse(bytes).expect("what was written").iter().eq(all));
    }
    if let Some((status, rest)) = data.split_first_chunk::<2>()
        && let Some((_, details)) = parse_failure(rest)
    {
        let status = Status(u16::from_le_bytes(*status));
        if let Some(error) = MemoryError::from_wire(status, details) {
            let (code, details) = error.to_wire();
            assert_eq!(MemoryError::from_wire(code, details), Some(error));
            assert!(!error.to_string().is_empty());
        }
    }
}
