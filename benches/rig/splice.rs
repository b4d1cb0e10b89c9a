//! The floor: bytes copied from socket to socket, without a look at them.

use tokio::net::{TcpListener, TcpStream};

/// Copies between `listen` and `upstream`, both on loopback, until it is ended.
pub fn run(listen: u16, upstream: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", listen)).await.expect("the port is free");
        loop {
            let Ok((mut agent, _)) = listener.accept().await else { continue };
            tokio::spawn(async move {
                // Whoever breaks off is the other's to see.
                let Ok(mut upstream) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
                drop(agent.set_nodelay(true).and(upstream.set_nodelay(true)));
                let size = 64 << 10;
                drop(tokio::io::copy_bidirectional_with_sizes(&mut agent, &mut upstream, size, size).await);
            });
        }
    });
}
