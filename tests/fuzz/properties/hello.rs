//! The input is the beginning of a TLS connection. What is read out of it is what the TLS library reads
//! out of it, where that takes it at all; the second reading is the one that answers the client.

use std::io::Cursor;

use postern::core::hello::{self, Hello};
use rustls::server::Acceptor;

pub fn check(data: &[u8]) -> &'static str {
    let read = hello::read(data);
    for end in 0..data.len() {
        // What has been said once stands, whatever follows.
        match hello::read(&data[..end]) {
            Ok(None) => {}
            Ok(Some(hello)) => assert_eq!(Ok(Some(hello)), read, "cut at {end}"),
            Err(_) => assert!(read.is_err(), "cut at {end}"),
        }
    }
    let library = accepted(data);
    match (read, library) {
        (Ok(Some(hello)), Some(name)) => {
            let ours = hello.server_name.as_ref().map(ToString::to_string);
            assert_eq!(ours, name.map(|name| name.to_ascii_lowercase()), "two names in one ClientHello");
            fate(&hello)
        }
        // The library is stricter about what does not matter here, and ends the connection.
        (Ok(Some(_)), None) => "unserved",
        (Ok(None), _) => "unfinished",
        (Err(_), _) => "refused",
    }
}

fn fate(hello: &Hello) -> &'static str {
    match (hello.hidden, &hello.server_name) {
        (true, _) => "hidden",
        (false, Some(_)) => "named",
        (false, None) => "unnamed",
    }
}

/// The server name that the library finds; `None` if it does not take the ClientHello.
fn accepted(data: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    let mut reader = Cursor::new(data);
    loop {
        if acceptor.read_tls(&mut reader).ok()? == 0 {
            return None;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Some(accepted.client_hello().server_name().map(str::to_owned)),
            Ok(None) => {}
            Err(_) => return None,
        }
    }
}
