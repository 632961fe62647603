use super::*;

const GOOD: &str = r#"
# two processes
[[process]]
name = "mn0"
role = "mn"
address = "127.0.0.1:7000"

[[process]]
name = "producer"
role = "cn"
address = "127.0.0.1:7001"
core = 1
"#;

fn parse(text: &str) -> Result<Cluster, String> {
    Cluster::parse(text, Path::new("c.toml")).map_err(|error| error.to_string())
}

#[test]
fn good_file() {
    let cluster = parse(GOOD).expect("good");
    assert_eq!(cluster.processes().len(), 2);
    let mn = cluster.select(0, Role::MemoryNode).expect("first line");
    assert_eq!((mn.name.as_str(), mn.address.port(), mn.core), ("mn0", 7000, None));
    let cn = cluster.by_name("producer").expect("second");
    assert_eq!((cn.role, cn.core), (Role::ComputeNode, Some(1)));
    assert_eq!(cluster.with_role(Role::ComputeNode).collect::<Vec<_>>(), [cn]);
}

#[test]
fn a_cluster_encrypts_if_its_file_says_so() {
    let process = "[[process]]\nname = \"a\"\nrole = \"mn\"\naddress = \"127.0.0.1:7000\"\n";
    let encrypts = |first: &str| parse(&format!("{first}\n{process}")).map(|file| file.encrypts());
    assert_eq!(encrypts(""), Ok(false));
    assert_eq!(encrypts("encrypt = true"), Ok(true));
    let error = encrypts("encrypt = 1").expect_err("no number");
    assert!(error.starts_with("cluster file c.toml, line 1"), "{error}");
}

#[test]
fn wrong_selections() {
    let cluster = parse(GOOD).expect("good");
    let text = |result: Result<&Process, ClusterError>| result.expect_err("wrong").to_string();
    assert!(text(cluster.select(2, Role::MemoryNode)).contains("index 2"));
    let error = text(cluster.select(1, Role::MemoryNode));
    assert!(error.contains("'producer', is no mn"), "{error}");
}

#[test]
fn wrong_lines_are_named_with_their_value() {
    for (from, to, line, value) in [
        ("role = \"cn\"", "role = \"gpu\"", "line 10:", "'gpu'"),
        ("127.0.0.1:7000", "localhost:7000", "line 6:", "'localhost:7000'"),
        ("127.0.0.1:7000", "127.0.0.1", "line 6:", "'127.0.0.1'"),
        ("127.0.0.1:7000", "127.0.0.1:0", "line 6:", "127.0.0.1:0"),
        ("core = 1", "core = -1", "line 12:", "-1"),
        ("core = 1", "color = 1", "line 12:", "color"),
        ("\"producer\"", "\"mn0\"", "line 9:", "'mn0'"),
        ("\"producer\"", "\"\"", "line 9:", "empty"),
        ("7001", "7000", "line 11:", "127.0.0.1:7000"),
        ("name = \"producer\"", "name = ", "line 9:", ""),
        ("name = \"producer\"\n", "", "line 8:", "name"),
    ] {
        assert!(GOOD.contains(from));
        let error = parse(&GOOD.replace(from, to)).expect_err(to);
        assert!(error.contains("c.toml") && error.contains(line), "{to}: {error}");
        assert!(error.contains(value), "{to}: {error}");
    }
}

#[test]
fn files_without_processes() {
    assert!(parse("").expect_err("empty").contains("[[process]]"));
    let error = Cluster::load(Path::new("/no/such/file")).expect_err("not there").to_string();
    assert!(error.contains("/no/such/file"), "{error}");
}

#[test]
fn the_file_of_the_readme_is_good() {
    let readme = include_str!("../../../../README.md");
    let (_, after) = readme.split_once("```toml\n").expect("a cluster file");
    let (text, _) = after.split_once("```").expect("its end");
    let cluster = parse(text).expect("good");
    assert!(cluster.select(0, Role::MemoryNode).is_ok());
    assert!((1..3).all(|index| cluster.select(index, Role::ComputeNode).is_ok()));
}
