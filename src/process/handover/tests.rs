use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn listeners(count: usize) -> Vec<Named> {
    let listener = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let named = |socket: TcpListener| (Name::Listener(Address::Tcp(socket.local_addr().unwrap())), socket.into());
    (0..count).map(|_| named(listener())).collect()
}

fn copies(of: &[Named]) -> Vec<Named> {
    of.iter().map(|(name, socket)| (name.clone(), socket.try_clone().unwrap())).collect()
}

/// A door with `sockets` behind it, and what it ends with.
fn door(path: &Path, sockets: Vec<Named>) -> mpsc::Receiver<Pid> {
    let door = Door::open(path, None).unwrap();
    let (done, end) = mpsc::channel();
    thread::spawn(move || done.send(door.wait(|| Ok(copies(&sockets)))).unwrap());
    end
}

#[test]
fn every_name_survives() {
    for name in [
        Name::Listener(Address::Tcp("127.0.0.1:80".parse().unwrap())),
        Name::Listener(Address::Tcp("[::1]:443".parse().unwrap())),
        Name::Listener(Address::Unix("/run/with blank\n.sock".into())),
        Name::PidFile("/run/aralez.pid".into()),
        Name::Door(OsStr::from_bytes(b"/run/\xff.sock").into()),
    ] {
        assert_eq!(Name::parse(&name.bytes()), Some(name));
    }
    for wrong in [&b""[..], b"x/path", b"t1.2.3.4", b"t\xff"] {
        assert_eq!(Name::parse(wrong), None);
    }
    for wrong in [&[5][..], &[5, 0, b'u'], &[1, 0, b'?']] {
        assert_eq!(names(wrong), None);
    }
}

#[test]
fn more_sockets_than_one_packet_holds_arrive_with_their_names_and_listen_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("door");
    let sockets = listeners(3 * BATCH + 1);
    let wanted: Vec<Name> = sockets.iter().map(|(name, _)| name.clone()).collect();
    let old = door(&path, sockets);
    let (received, waiting) = ask(&path, &[]).unwrap().unwrap();
    assert_eq!(received.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), wanted);
    assert!(old.try_recv().is_err(), "the old one goes on until the new one is ready");
    waiting.ready().unwrap();
    assert_eq!(old.recv_timeout(SOON).unwrap(), rustix::process::getpid());
    drop(old);
    for (name, socket) in received {
        let Name::Listener(Address::Tcp(address)) = name else { panic!() };
        let socket = TcpListener::from(socket);
        assert_eq!(socket.local_addr().unwrap(), address);
        TcpStream::connect(address).unwrap();
    }
}

#[test]
fn a_process_that_ends_before_it_is_ready_leaves_the_door_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("door");
    let old = door(&path, listeners(2));
    for _ in 0..2 {
        let (received, waiting) = ask(&path, &[]).unwrap().unwrap();
        assert_eq!(received.len(), 2);
        drop(waiting);
    }
    // One that asks for nothing it understands.
    let stranger = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    rustix::net::connect(&stranger, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::send(&stranger, b"\x09r", SendFlags::empty()).unwrap();
    drop(stranger);
    assert!(old.try_recv().is_err());
    ask(&path, &[]).unwrap().unwrap().1.ready().unwrap();
    old.recv_timeout(SOON).unwrap();
}

#[test]
fn the_door_itself_can_be_handed_on_and_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("door");
    let first = Door::open(&path, None).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Door::open(&path, None).unwrap_err().kind(), ErrorKind::AddrInUse);
    let (name, socket) = first.named().unwrap();
    assert_eq!(name, Name::Door(path.clone()));
    drop(first);
    let second = Door::open(&path, Some(socket)).unwrap();
    thread::spawn(move || second.wait(|| bail!("busy with something else")));
    let why = ask(&path, &[]).unwrap_err().to_string();
    assert!(why.contains("busy with something else"), "{why}");
}

#[test]
fn nobody_at_the_door_is_no_error_and_users_must_be_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("door");
    assert!(ask(&path, &[]).unwrap().is_none());
    drop(Door::open(&path, None).unwrap());
    assert!(ask(&path, &[]).unwrap().is_none(), "a file that was left behind");
    let other = Uid::from_raw(4242);
    assert!(is_trusted(Uid::ROOT, &[]) && is_trusted(rustix::process::geteuid(), &[]) && is_trusted(other, &[other]));
    assert!(!is_trusted(other, &[]));
}
