//! The part of HTTP/1.1 that the server and the clients need.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The end of a request or of a response's head.
const END: &[u8] = b"\r\n\r\n";

/// The maximum size of a message.
const LONGEST: usize = 16 << 10;

/// A connection, with the bytes that were received but not used yet.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    pub(crate) received: Vec<u8>,
}

/// A response to a client.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Whether the server closes the connection after this response.
    pub(crate) closes: bool,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Receives bytes. Returns false if the peer has closed the connection.
    pub(crate) async fn receive(&mut self) -> io::Result<bool> {
        if self.received.len() > LONGEST {
            return Err(io::Error::other("the message is too long"));
        }
        Ok(self.stream.read_buf(&mut self.received).await? > 0)
    }

    /// Takes a head from the received bytes, if it is complete.
    pub(crate) fn take_head(&mut self) -> Option<String> {
        let end = self.received.windows(END.len()).position(|w| w == END)?;
        let head = self.received.drain(..end + END.len()).collect::<Vec<_>>();
        Some(String::from_utf8_lossy(&head).into_owned())
    }

    /// Takes a response from the received bytes, if it is complete.
    pub(crate) fn take_reply(&mut self) -> io::Result<Option<Reply>> {
        let Some(end) = self.received.windows(END.len()).position(|w| w == END) else {
            return Ok(None);
        };
        let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
        let invalid = || io::Error::other(format!("unexpected response: {head}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let length = value(&head, "content-length").and_then(|length| length.parse().ok());
        let (status, length): (u16, usize) = status.zip(length).ok_or_else(invalid)?;
        let start = end + END.len();
        let Some(body) = self.received.get(start..start + length) else {
            return Ok(None);
        };
        let body = String::from_utf8_lossy(body).into_owned();
        self.received.drain(..start + length);
        Ok(Some(Reply {
            status,
            body,
            closes: closes(&head),
        }))
    }
}

/// Returns whether a head announces that its sender closes the connection.
pub(crate) fn closes(head: &str) -> bool {
    value(head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

/// Returns a complete response.
pub(crate) fn response(status: &str, closes: bool, body: &str) -> String {
    let connection = if closes { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nConnection: {connection}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
