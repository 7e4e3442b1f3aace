//! The door: a bounded number of connections, all of which can be closed at once.
//!
//! Whoever connects takes a file descriptor, and engines need some too. So the last quarter of what the
//! process may open is not for connections: one that would take a descriptor there is closed again at
//! once ([`Limits`]). And who connects must speak: a connection that has not begun as HTTP/2 does within
//! [`GREETING_TIMEOUT`] is closed. What comes later is HTTP/2's to watch: it asks a silent peer whether it
//! lives.
//!
//! tonic closes a connection politely: it waits for the streams on it, and a stream between stores
//! never ends by itself. So every connection also hears the [`Cut`]: after it, reading and writing
//! fail, and everything that was served over the connection is dropped.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections open at once. At the limit a new one waits in the system's queue of the port.
const CONNECTIONS_MAX: usize = 4096;

/// How long a new connection may take over the bytes with which HTTP/2 begins. Then it is closed.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How many bytes those are.
const GREETING_BYTES: usize = 24;

/// After a connection that could not be had, the next is waited for this long: whatever there is too
/// little of comes back.
const PAUSE: Duration = Duration::from_millis(10);

/// What a listener may take of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Descriptors from this number on are not for connections. The system gives the lowest free one, so
    /// this counts everything that is open.
    descriptor_max: u64,
    greeting: Duration,
}

impl Limits {
    /// Three quarters of the descriptors that this process may have.
    pub(crate) fn of_process() -> Self {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
        Self { descriptor_max: limit - limit / 4, greeting: GREETING_TIMEOUT }
    }

    /// Whether this connection may stay.
    fn allows(&self, stream: &TcpStream) -> bool {
        u64::try_from(stream.as_raw_fd()).is_ok_and(|number| number < self.descriptor_max)
    }
}

/// Says once to everything that was given a copy: stop now. Dropping it says so too.
#[derive(Debug)]
pub(crate) struct Cut(watch::Sender<bool>);

impl Cut {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// A way to make the cut from elsewhere. While it lives, dropping the cut says nothing.
    pub(crate) fn sender(&self) -> watch::Sender<bool> {
        self.0.clone()
    }

    /// What hears it.
    pub(crate) fn ear(&self) -> Ear {
        Ear(self.0.subscribe())
    }

    pub(crate) fn now(&self) {
        self.0.send_replace(true);
    }
}

/// Hears a [`Cut`].
#[derive(Clone, Debug)]
pub(crate) struct Ear(watch::Receiver<bool>);

impl Ear {
    /// Returns when the cut was made or can no longer be made.
    pub(crate) async fn heard(mut self) {
        // An error means that the cut itself was dropped.
        let _ = self.0.wait_for(|cut| *cut).await;
    }

    /// The stream, until the cut.
    pub(crate) fn until<S>(self, stream: S) -> UntilHeard<S> {
        UntilHeard { stream, heard: Some(Box::pin(self.heard())) }
    }

    /// Runs until done or cut; `None` when cut.
    pub(crate) async fn or<T>(self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.heard() => None,
            done = work => Some(done),
        }
    }
}

/// A stream that ends when an [`Ear`] hears its cut; what has arrived before is still given.
pub(crate) struct UntilHeard<S> {
    stream: S,
    /// `None` once it was heard.
    heard: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S: Stream + Unpin> Stream for UntilHeard<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        if self.heard.is_none() {
            return Poll::Ready(None);
        }
        let item = Pin::new(&mut self.stream).poll_next(cx);
        // Only where the task would sleep is there time to listen.
        if item.is_pending()
            && self.heard.as_mut().is_some_and(|heard| heard.as_mut().poll(cx).is_ready())
        {
            self.heard = None;
            return Poll::Ready(None);
        }
        item
    }
}

/// A connection that can be cut, and counts as open until it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    /// `None` once it was heard.
    cut: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    /// `None` once it is over.
    greeting: Option<Greeting>,
    _place: OwnedSemaphorePermit,
}

/// The first bytes of a connection, and until when they must be here.
struct Greeting {
    bytes: usize,
    late: Pin<Box<tokio::time::Sleep>>,
}

impl Connection {
    /// Whether the cut was made; otherwise the task is woken when it is.
    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        if self.cut.as_mut().is_some_and(|cut| cut.as_mut().poll(cx).is_ready()) {
            self.cut = None;
        }
        self.cut.is_none()
    }

    /// The result; but where the task would sleep, the cut is listened for.
    fn unless_cut<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_pending() && self.is_cut(cx) {
            let stopping =
                io::Error::new(io::ErrorKind::ConnectionAborted, "the store is stopping");
            return Poll::Ready(Err(stopping));
        }
        result
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
            greeting.bytes += buffer.filled().len() - before;
            if greeting.bytes >= GREETING_BYTES {
                self.greeting = None;
            } else if result.is_pending() && greeting.late.as_mut().poll(cx).is_ready() {
                let silent = io::Error::new(io::ErrorKind::TimedOut, "it does not begin as HTTP/2");
                return Poll::Ready(Err(silent));
            }
        }
        self.unless_cut(cx, result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.unless_cut(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.unless_cut(cx, result)
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

/// Takes a port; 0 takes a free one.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, crate::StartError> {
    TcpListener::bind(address).await.map_err(|cause| crate::StartError::Listen { address, cause })
}

/// Connections as they come, until there shall be no more; each lives until the cut at most.
pub(crate) fn connections(
    listener: TcpListener,
    ear: Ear,
    no_more: Ear,
    limits: Limits,
) -> ReceiverStream<io::Result<Connection>> {
    // One ready connection waits here while the previous one is being taken over.
    let (tx, rx) = mpsc::channel(1);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = {
        async move {
            loop {
                let place = places.clone().acquire_owned().await;
                let place = place.expect("the semaphore is never closed");
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, or the client has gone already.
                        tracing::warn!(%error, "accept a connection");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                };
                if !limits.allows(&stream) {
                    tracing::warn!("a connection is refused: too many files are open");
                    drop(stream);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                // Small answers must not wait for more bytes.
                let _ = stream.set_nodelay(true);
                let cut: Pin<Box<dyn Future<Output = ()> + Send + Sync>> =
                    Box::pin(ear.clone().heard());
                let late = Box::pin(tokio::time::sleep(limits.greeting));
                let greeting = Some(Greeting { bytes: 0, late });
                let connection = Connection { stream, cut: Some(cut), greeting, _place: place };
                if tx.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::spawn(async move {
        no_more.or(accept).await;
    });
    ReceiverStream::new(rx)
}

/// The same for a port that axum serves.
pub(crate) struct Door(pub(crate) ReceiverStream<io::Result<Connection>>);

impl axum::serve::Listener for Door {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        loop {
            match self.0.next().await {
                Some(Ok(connection)) => return (connection, ()),
                Some(Err(_)) => {}
                // There shall be no more.
                None => return std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_stream_gives_what_arrived_and_ends_at_the_cut() {
        let cut = Cut::new();
        let (tx, rx) = mpsc::channel(4);
        let mut stream = cut.ear().until(ReceiverStream::new(rx));
        tx.send(1).await.unwrap();
        cut.now();
        assert_eq!(stream.next().await, Some(1));
        assert_eq!(stream.next().await, None);
        assert_eq!(stream.next().await, None);
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_frees_the_port() {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Cut::new();
        let mut incoming = connections(listener, cut.ear(), cut.ear(), Limits::of_process());
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut served = incoming.next().await.unwrap().unwrap();
        client.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 5];
        served.read_exact(&mut buffer).await.unwrap();
        let read = tokio::spawn(async move { served.read(&mut [0; 1]).await });
        cut.now();
        assert!(read.await.unwrap().is_err());
        assert!(incoming.next().await.is_none());
        assert_eq!(client.read(&mut buffer).await.unwrap(), 0);
        bind(address).await.unwrap();
    }

    #[tokio::test]
    async fn who_connects_and_says_nothing_is_sent_away() {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Cut::new();
        let limits = Limits { greeting: Duration::from_millis(20), ..Limits::of_process() };
        let mut incoming = connections(listener, cut.ear(), cut.ear(), limits);
        for (words, is_greeting) in
            [(vec![], false), (vec![b'P'; 23], false), (vec![b'P'; 24], true)]
        {
            let mut client = TcpStream::connect(address).await.unwrap();
            let mut served = incoming.next().await.unwrap().unwrap();
            client.write_all(&words).await.unwrap();
            let mut heard = vec![0; words.len()];
            served.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, words);
            let mut more = [0; 1];
            let read = served.read(&mut more);
            match tokio::time::timeout(Duration::from_millis(200), read).await {
                Ok(read) => assert!(!is_greeting && read.is_err(), "{words:?}"),
                Err(_) => assert!(is_greeting, "{words:?}"),
            }
        }
    }

    #[tokio::test]
    async fn the_last_descriptors_are_not_for_connections() {
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = Cut::new();
        let limits = Limits { descriptor_max: 3, ..Limits::of_process() };
        let mut incoming = connections(listener, cut.ear(), cut.ear(), limits);
        let mut client = TcpStream::connect(address).await.unwrap();
        // Closed, be it with an end or with a reset.
        assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        cut.now();
        assert!(incoming.next().await.is_none(), "it was let in");
    }
}
