//! Checks readiness over this machine's own network.

use std::io::ErrorKind;
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
    async fn tcp(&self, ip: IpAddr, port: u16, limit: Duration) -> Result<(), String> {
        let connect = connect(SocketAddr::new(ip, port));
        timeout(limit, connect)
            .await
            .unwrap_or_else(|_| Err(late(limit)))
            .map(drop)
    }

    async fn http(&self, ip: IpAddr, port: u16, path: &str, limit: Duration) -> Result<(), String> {
        let ask = status(SocketAddr::new(ip, port), path);
        let answer = timeout(limit, ask).await;
        match answer.unwrap_or_else(|_| Err(late(limit)))? {
            200..=399 => Ok(()),
            status => Err(format!("the response has status {status}")),
        }
    }
}

fn late(limit: Duration) -> String {
    format!("timed out: no response within {limit:?}")
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    })
}

/// Returns the status code of `GET path`.
async fn status(address: SocketAddr, path: &str) -> Result<u16, String> {
    let invalid = |error: &dyn std::error::Error| format!("no valid HTTP response: {error}");
    let request = Request::get(path)
        .header(HOST, address.to_string())
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!("the path is invalid: {error}"))?;
    let stream = connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| invalid(&error))?;
    let ask = async move {
        let response = sender.send_request(request).await;
        response
            .map(|response| response.status().as_u16())
            .map_err(|error| invalid(&error))
    };
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

    async fn http(answer: &'static str) -> Result<(), String> {
        let at = server(answer).await;
        SocketReadiness
            .http(at.ip(), at.port(), "/health?x=1", LIMIT)
            .await
    }

    #[tokio::test]
    async fn a_status_below_400_is_ready() {
        let ok = http("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        assert_eq!(ok, Ok(()));
        let elsewhere = http("HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(elsewhere, Ok(()));
        for (response, why) in [
            (
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
                "status 404",
            ),
            (
                "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
                "status 503",
            ),
            ("not http at all\r\n\r\n", "no valid HTTP response"),
            ("", "no valid HTTP response"),
        ] {
            let refused = http(response).await.unwrap_err();
            assert!(refused.contains(why), "{response:?}: {refused}");
        }
    }

    #[tokio::test]
    async fn an_open_port_is_ready_and_a_closed_port_is_not() {
        let at = server("").await;
        assert_eq!(SocketReadiness.tcp(at.ip(), at.port(), LIMIT).await, Ok(()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let closed = listener.local_addr().unwrap();
        drop(listener);
        let refused = SocketReadiness.tcp(closed.ip(), closed.port(), LIMIT).await;
        assert_eq!(refused, Err("connection refused".to_owned()));
    }

    #[tokio::test]
    async fn an_unresponsive_server_is_not_ready_in_time() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = listener.local_addr().unwrap();
        let limit = Duration::from_millis(50);
        let asked = SocketReadiness.http(at.ip(), at.port(), "/", limit);
        let late = timeout(LIMIT, asked).await.unwrap().unwrap_err();
        assert_eq!(late, "timed out: no response within 50ms");
    }
}
