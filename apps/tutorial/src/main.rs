//! A letter goes over a desk to a stamp and back, by reference: the README's tutorial.
//!
//! `tutorial ROLE CLUSTER.toml [FILE]` is one of three processes; the fourth is a memory node.

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

use dmrpc_cn::memory::ALL_RIGHTS;
use dmrpc_cn::{
    Arg, Cluster, ClusterDirectory, Context, IncomingCall, Method, Node, NodeConfig, OwnedRef,
    Process, Status, UdpDevice,
};

/// Put a stamp on a letter: a reference to the letter, answered by one to the stamped letter.
const STAMP: Method = Method(1);
/// It was not done; the answer's body says why.
const NOT_DONE: Status = Status(0x8001);
/// What is written over the beginning of a letter.
const SEAL: &[u8] = b"[stamped] ";

type AnyError = Box<dyn Error>;
type Desk<'n> = Context<'n, UdpDevice>;
type Letter<'n> = IncomingCall<'n, UdpDevice>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["stamp", cluster] => load(cluster).and_then(|cluster| stamp(&cluster)),
        ["desk", cluster] => load(cluster).and_then(|cluster| desk(&cluster)),
        ["client", cluster, file] => load(cluster).and_then(|cluster| client(&cluster, file)),
        _ => {
            eprintln!(
                "give stamp or desk and a cluster file, or client, a cluster file and a file"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tutorial: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(path: &str) -> Result<Cluster, AnyError> {
    Ok(Cluster::load(Path::new(path))?)
}

fn process<'c>(cluster: &'c Cluster, name: &str) -> Result<&'c Process, AnyError> {
    Ok(cluster.by_name(name).ok_or_else(|| format!("the cluster file has no process '{name}'"))?)
}

/// The node of one process: at its address, with the key that the environment names.
fn open(cluster: &Cluster, name: &str) -> Result<Node<UdpDevice>, AnyError> {
    let here = process(cluster, name)?;
    let index = cluster.processes().iter().position(|process| process == here);
    let node = Node::open_udp(&NodeConfig::of_cluster(cluster, index.unwrap_or_default())?)?;
    // So that references lead to the memory nodes of the file.
    node.set_directory(ClusterDirectory::new(cluster));
    println!("ready {}", node.local_addr());
    Ok(node)
}

/// Stamps copies of letters.
fn stamp(cluster: &Cluster) -> Result<(), AnyError> {
    let node = open(cluster, "stamp")?;
    let service = node.serve(|context: Desk<'_>, letter: Letter<'_>| async move {
        let answered = match stamped(context, &letter).await {
            Ok(result) => hand_over(letter, result),
            Err(why) => letter.reply(NOT_DONE, &[Arg::Inline(why.to_string().as_bytes())]),
        };
        if let Err(error) = answered {
            eprintln!("stamp: no answer could be given: {error}");
        }
    });
    service.run(|| false);
    Ok(())
}

/// The work. Whatever ends it, `?` here or a caller that gives up, what it holds is given back.
async fn stamped<'n>(
    context: Desk<'n>,
    letter: &Letter<'n>,
) -> Result<OwnedRef<'n, UdpDevice>, AnyError> {
    let original = letter.refs().next().ok_or("a letter comes as a reference")?;
    let memory = context.memory_of(&original).await?;
    // Pages that are not written to stay shared, and the original stays as it is.
    let copy = memory.own(memory.map_ref(&original).await?);
    memory.write(*copy, 0, SEAL).await?;
    Ok(memory.own_ref(memory.create_ref(*copy, 0, copy.length, ALL_RIGHTS).await?))
}

/// Answers with a reference, which is the caller's from then on.
fn hand_over(letter: Letter<'_>, result: OwnedRef<'_, UdpDevice>) -> Result<(), dmrpc_cn::Error> {
    letter.reply(Status::OK, &[Arg::Ref(*result)])?;
    let _claimed_by_the_caller = result.keep();
    Ok(())
}

/// Passes letters on to the stamp, and its answers back. No byte of a letter comes here.
fn desk(cluster: &Cluster) -> Result<(), AnyError> {
    let stamp = process(cluster, "stamp")?.address;
    let node = open(cluster, "desk")?;
    let service = node.serve(move |context: Desk<'_>, letter: Letter<'_>| async move {
        let mut body = [0; 512];
        let passed = async {
            let peer = context.peer(stamp).await?;
            let args: Vec<Arg<'_>> = letter.args().collect();
            Ok::<_, AnyError>(context.call(peer, letter.method(), &args, &mut body).await?)
        };
        let answered = match passed.await {
            Ok(reply) => {
                let refs = reply.refs().map(Arg::Ref);
                let why = (reply.body_bytes > 0).then(|| Arg::Inline(&body[..reply.body_bytes]));
                letter.reply(reply.status, &refs.chain(why).collect::<Vec<_>>())
            }
            Err(why) => letter.reply(NOT_DONE, &[Arg::Inline(why.to_string().as_bytes())]),
        };
        if let Err(error) = answered {
            eprintln!("desk: no answer could be given: {error}");
        }
    });
    service.run(|| false);
    Ok(())
}

/// Puts a file into memory, has it stamped, and prints the result.
fn client(cluster: &Cluster, file: &str) -> Result<(), AnyError> {
    let text = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    let desk = process(cluster, "desk")?.address;
    let memory_node = process(cluster, "memory")?.address;
    let node = open(cluster, "client")?;
    let memory = node.memory(node.connect(memory_node)?);
    let peer = node.connect(desk)?;
    let letter = memory.own_ref(memory.put(&text)?);
    let mut why = [0; 512];
    let reply = node.call(peer, STAMP, &[Arg::Ref(*letter)], &mut why)?;
    if reply.status != Status::OK {
        let why = String::from_utf8_lossy(&why[..reply.body_bytes]);
        return Err(format!("the letter was not stamped: {why}").into());
    }
    let result = reply.refs().next().ok_or("an answer without a letter")?;
    let mut stamped = vec![0; result.length as usize];
    memory.take(&result, &mut stamped)?;
    println!("{}", String::from_utf8_lossy(&stamped));
    drop(letter);
    node.disconnect_all();
    Ok(())
}
