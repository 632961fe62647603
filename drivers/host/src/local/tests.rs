use super::*;
use std::path::Path;

const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn spawn(script: &str) -> LocalProcess {
    LocalProcess::spawn("child", shell(script)).expect("there is a shell")
}

/// Whether a process runs, zombies not counted.
fn runs(id: u32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z"))
}

fn wait_until_gone(id: u32) {
    let end = Instant::now() + SOON;
    while runs(id) {
        assert!(Instant::now() < end, "process {id} still runs");
        thread::sleep(EXIT_POLL);
    }
}

#[test]
fn waits_for_the_line_that_says_ready() {
    let mut child = spawn("echo starting; echo ready on port 7; echo more; exec sleep 60");
    assert_eq!(child.wait_line("ready", SOON).expect("it says so"), "ready on port 7");
    assert_eq!(child.wait_line("more", SOON).expect("it says so"), "more");
    assert_eq!(child.next_line(), None);
    let error = child.wait_line("never", Duration::from_millis(20)).expect_err("it does not");
    assert_eq!(error.to_string(), "child gave no line that starts with 'never' within 20ms");
    let status = child.stop(SOON).expect("it runs");
    assert!(!status.success());
}

#[test]
fn an_early_end_tells_the_exit_status() {
    let mut child = spawn("echo wrong; exit 3");
    match child.wait_line("ready", SOON) {
        Err(LocalError::Ended { status: Some(status), .. }) => assert_eq!(status.code(), Some(3)),
        other => panic!("{other:?}"),
    }
    assert_eq!(child.stop(SOON).expect("ended").code(), Some(3));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = LocalProcess::spawn("mn", Command::new("/no/such/program")).expect_err("not there");
    assert!(error.to_string().contains("mn (/no/such/program)"), "{error}");
}

#[test]
fn a_deaf_child_is_killed() {
    let mut child = spawn("trap '' TERM; echo ready; while true; do sleep 0.05; done");
    child.wait_line("ready", SOON).expect("it says so");
    let status = child.stop(Duration::from_millis(50)).expect("it runs");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
}

#[test]
fn dropping_kills_and_the_thread_that_spawned_does_not_matter() {
    let child = thread::spawn(|| spawn("exec sleep 60")).join().expect("no panic");
    thread::sleep(Duration::from_millis(20));
    let id = child.id();
    assert!(runs(id));
    drop(child);
    assert!(!runs(id));
}

/// Not a test of its own: what the test below runs as a process that dies badly.
#[test]
fn parent_that_is_killed() {
    if std::env::var_os("DMRPC_TEST_DYING_PARENT").is_some() {
        let child = spawn("exec sleep 60");
        eprintln!("child {}", child.id());
        sys::send_signal(std::process::id(), libc::SIGKILL).expect("ourselves");
        thread::sleep(SOON);
    }
}

#[test]
fn children_of_a_killed_process_die() {
    let test = std::env::current_exe().expect("known");
    let output = Command::new(test)
        .args(["--exact", "local::tests::parent_that_is_killed", "--nocapture"])
        .env("DMRPC_TEST_DYING_PARENT", "1")
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let id = text.lines().find_map(|line| line.strip_prefix("child ")).expect("it says");
    wait_until_gone(id.parse().expect("a number"));
}
