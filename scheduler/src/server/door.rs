//! Connections as they come, as far as the process can bear them.
//!
//! Whoever connects takes a file descriptor, and the log needs some too. So the last quarter of what the
//! process may open is not for connections: one that would take a descriptor there is closed again at
//! once. And who connects must speak: a connection that says nothing within [`GREETING_TIMEOUT`], or begins
//! as HTTP/2 does and stops, is closed. Later silence is for HTTP to notice.

use std::io;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// How long a new connection may take over its first words. Then it is closed.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How HTTP/2 begins. Anything else is HTTP/1.1, which says by its first bytes that it is not this.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// After a connection that could not be had, the next is waited for this long: whatever there is too
/// little of comes back.
const PAUSE: Duration = Duration::from_millis(10);

/// What a listener may take of the process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Descriptors from this number on are not for connections. The system gives the lowest free one, so
    /// this counts everything that is open.
    descriptor_max: u64,
    greeting: Duration,
}

impl Limits {
    /// Three quarters of the descriptors that this process may have.
    pub(super) fn of_process() -> Self {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
        Self { descriptor_max: limit - limit / 4, greeting: GREETING_TIMEOUT }
    }

    fn allows(&self, stream: &TcpStream) -> bool {
        u64::try_from(stream.as_raw_fd()).is_ok_and(|number| number < self.descriptor_max)
    }
}

/// The connections of a listener. Never ends.
pub(super) fn connections(
    listener: TcpListener,
    limits: Limits,
) -> impl Stream<Item = io::Result<Connection>> {
    futures_util::stream::unfold(listener, move |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if limits.allows(&stream) => {
                    // Small answers must not wait for more bytes.
                    let _ = stream.set_nodelay(true);
                    let late = Box::pin(tokio::time::sleep(limits.greeting));
                    let greeting = Some(Greeting { heard: 0, late });
                    return Some((Ok(Connection { stream, greeting }), listener));
                }
                Ok(_) => tracing::warn!("a connection is refused: too many files are open"),
                // Out of file descriptors, or the client has gone already.
                Err(error) => tracing::warn!(%error, "accept a connection"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

/// A connection that is closed unless it begins to speak.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// `None` once it is over.
    greeting: Option<Greeting>,
}

/// How much of the preface was heard, and until when all of it must be.
#[derive(Debug)]
struct Greeting {
    heard: usize,
    late: Pin<Box<tokio::time::Sleep>>,
}

impl Greeting {
    /// Whether these bytes complete the preface, or show that it is none.
    fn ends_with(&mut self, bytes: &[u8]) -> bool {
        let expected = &PREFACE[self.heard..];
        let both = expected.len().min(bytes.len());
        self.heard += both;
        expected[..both] != bytes[..both] || self.heard == PREFACE.len()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Some(greeting) = &mut self.greeting {
            if greeting.ends_with(&buffer.filled()[before..]) {
                self.greeting = None;
            } else if result.is_pending() && greeting.late.as_mut().poll(cx).is_ready() {
                let silent = io::Error::new(io::ErrorKind::TimedOut, "it does not begin to speak");
                return Poll::Ready(Err(silent));
            }
        }
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn listen() -> (TcpListener, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    #[tokio::test]
    async fn who_connects_and_does_not_go_on_speaking_is_sent_away() {
        let (listener, address) = listen().await;
        let limits = Limits { greeting: Duration::from_millis(20), ..Limits::of_process() };
        let mut incoming = std::pin::pin!(connections(listener, limits));
        for (words, stays) in
            [(&b""[..], false), (&PREFACE[..9], false), (PREFACE, true), (&b"G"[..], true)]
        {
            let mut client = TcpStream::connect(address).await.unwrap();
            let mut served = incoming.next().await.unwrap().unwrap();
            client.write_all(words).await.unwrap();
            let mut heard = vec![0; words.len()];
            served.read_exact(&mut heard).await.unwrap();
            let mut more = [0; 1];
            let read = served.read(&mut more);
            match tokio::time::timeout(Duration::from_millis(200), read).await {
                Ok(read) => assert!(!stays && read.is_err(), "{words:?}"),
                Err(_) => assert!(stays, "{words:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_last_descriptors_are_not_for_connections() {
        let (listener, address) = listen().await;
        let limits = Limits { descriptor_max: 3, ..Limits::of_process() };
        let serving = tokio::spawn(async move {
            let mut incoming = std::pin::pin!(connections(listener, limits));
            incoming.next().await.is_some()
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        // Closed, be it with an end or with a reset.
        assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        assert!(!serving.is_finished(), "it was let in");
        serving.abort();
    }
}
