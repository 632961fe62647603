//! Tests of `owners`, which are not part of it because models compile that file, too.

use std::thread;

use super::owners::{Key, Owners};

fn key(number: u32) -> Key {
    let [a, b, c, d] = number.to_be_bytes();
    Key::new([10, 0, a, b], [c, d])
}

#[test]
fn who_asks_first_has_it() {
    let owners: Owners = Owners::new(3);
    assert_eq!(owners.find(key(7), 2), 2);
    assert_eq!(owners.find(key(7), 0), 2);
    assert_eq!(owners.find(key(8), 0), 0);
    let address = std::net::SocketAddrV4::new([10, 0, 0, 9].into(), 515);
    assert_eq!((Key::of(address).ip(), Key::of(address).port()), (*address.ip(), 515));
}

#[test]
fn all_agree_even_when_it_is_full() {
    let owners: Owners = Owners::new(4);
    let answers: Vec<Vec<usize>> = thread::scope(|scope| {
        let ask = |lane| {
            let owners = &owners;
            scope.spawn(move || (0..40_000).map(|peer| owners.find(key(peer), lane)).collect())
        };
        let threads: Vec<_> = (0..4).map(ask).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for others in &answers[1..] {
        assert_eq!(&answers[0], others);
    }
    let again: Vec<usize> = (0..40_000).map(|peer| owners.find(key(peer), 3)).collect();
    assert_eq!(answers[0], again);
}
