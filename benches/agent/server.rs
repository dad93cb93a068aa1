//! Implements the server. It answers HTTP requests with a small reply or with an endless stream.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;

/// The complete small reply.
pub(crate) const REPLY: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n";

/// A request for one reply. The connection stays open for more requests.
pub(crate) const KEEP_ALIVE: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nAccept: */*\r\n\r\n";

/// A request for one reply. The server then closes the connection.
pub(crate) const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

/// A request for the endless stream.
pub(crate) const STREAM: &[u8] = b"GET /stream HTTP/1.1\r\nHost: bench\r\n\r\n";

pub(crate) fn run(address: &str) -> Result<(), Failure> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address.parse()?)?;
        let listener = socket.listen(4096)?;
        serve(listener).await
    })
}

async fn serve(listener: TcpListener) -> Result<(), Failure> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // An error means that the client has disconnected.
            drop(answer(stream).await);
        });
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 256];
    let mut have = 0;
    loop {
        let read = stream.read(&mut request[have..]).await?;
        if read == 0 {
            return Ok(());
        }
        have += read;
        match &request[..have] {
            KEEP_ALIVE => stream.write_all(REPLY).await?,
            CLOSE => return stream.write_all(REPLY).await,
            STREAM => {
                let block = vec![b'x'; 256 << 10];
                loop {
                    stream.write_all(&block).await?;
                }
            }
            _ => continue,
        }
        have = 0;
    }
}
