//! Byte streams and connections.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

/// A stream of bytes.
pub type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// A bidirectional connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
