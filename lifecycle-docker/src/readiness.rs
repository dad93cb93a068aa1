//! Checks readiness over this machine's own network.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST};
use hyper_util::rt::TokioIo;
use lifecycle_core::runtime::ReadinessProbe;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Checks readiness from this machine, by opening a TCP connection or requesting a page.
#[derive(Debug, Clone, Copy, Default)]
pub struct SocketReadiness;

#[async_trait]
impl ReadinessProbe for SocketReadiness {
    async fn tcp(&self, ip: IpAddr, port: u16, limit: Duration) -> bool {
        let connect = TcpStream::connect(SocketAddr::new(ip, port));
        matches!(timeout(limit, connect).await, Ok(Ok(_)))
    }

    async fn http(&self, ip: IpAddr, port: u16, path: &str, limit: Duration) -> bool {
        let ask = status(SocketAddr::new(ip, port), path);
        matches!(timeout(limit, ask).await, Ok(Some(200..=399)))
    }
}

/// Returns the status code of `GET path`, if the server speaks HTTP.
async fn status(address: SocketAddr, path: &str) -> Option<u16> {
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let ask = async move { Some(sender.send_request(request).await.ok()?.status().as_u16()) };
    tokio::pin!(ask, connection);
    // The connection makes progress only while it is polled. A response may have arrived just
    // before the connection ended.
    tokio::select! {
        status = &mut ask => status,
        _ = &mut connection => ask.await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    /// Starts a server that sends the same response to each request, and returns its address.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    async fn http(answer: &'static str) -> bool {
        let at = server(answer).await;
        SocketReadiness
            .http(at.ip(), at.port(), "/health?x=1", LIMIT)
            .await
    }

    #[tokio::test]
    async fn a_status_below_400_is_ready() {
        assert!(http("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await);
        assert!(http("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await);
        assert!(!http("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await);
        assert!(!http("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n").await);
        assert!(!http("not http at all\r\n\r\n").await);
        assert!(!http("").await);
    }

    #[tokio::test]
    async fn an_open_port_is_ready_and_a_closed_port_is_not() {
        let at = server("").await;
        assert!(SocketReadiness.tcp(at.ip(), at.port(), LIMIT).await);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        assert!(!SocketReadiness.tcp(closed.ip(), closed.port(), LIMIT).await);
    }

    #[tokio::test]
    async fn an_unresponsive_server_is_not_ready_in_time() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let limit = Duration::from_millis(50);
        let asked = SocketReadiness.http(at.ip(), at.port(), "/", limit);
        assert!(!timeout(LIMIT, asked).await.unwrap());
    }
}
