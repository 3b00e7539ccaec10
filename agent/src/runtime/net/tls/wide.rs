//! Large reads below TLS.
//!
//! rustls asks the socket for 4 KiB at a time, a quarter of a record: that is 262,144 system calls per GiB. [`Wide`]
//! reads what the socket has, up to 256 KiB, and hands it on in whatever pieces it is asked for. A stream that has
//! nothing to read holds no buffer, so idle connections cost nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Sixteen records of TLS: what a busy socket has ready at once.
const READ_BYTES: usize = 256 * 1024;

/// A socket that is read in large pieces. Writes pass through.
pub(super) struct Wide {
    tcp: TcpStream,
    buffer: Vec<u8>,
    taken: usize,
}

impl Wide {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, buffer: Vec::new(), taken: 0 }
    }

    /// Fills the empty buffer with what the socket has; nothing at the stream's end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.taken = 0;
        self.buffer.clear();
        loop {
            if self.tcp.poll_read_ready(cx)?.is_pending() {
                self.buffer = Vec::new();
                return Poll::Pending;
            }
            self.buffer.reserve(READ_BYTES);
            match self.tcp.try_read_buf(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(drop)),
            }
        }
    }
}

impl AsyncRead for Wide {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken == self.buffer.len() {
            ready!(self.poll_fill(cx))?;
        }
        let count = buf.remaining().min(self.buffer.len() - self.taken);
        buf.put_slice(&self.buffer[self.taken..self.taken + count]);
        self.taken += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wide {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
