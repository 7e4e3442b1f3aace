//! The door: a bounded number of connections, all of which can be closed at once.
//!
//! tonic closes a connection politely: it waits for the streams on it, and a stream between stores
//! never ends by itself. So every connection also hears the [`Cut`]: after it, reading and writing
//! fail, and everything that was served over the connection is dropped.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Connections open at once. At the limit a new one waits in the system's queue of the port.
const CONNECTIONS_MAX: usize = 4096;

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
    _place: OwnedSemaphorePermit,
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
        let result = Pin::new(&mut self.stream).poll_read(cx, buffer);
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
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                        continue;
                    }
                };
                // Small answers must not wait for more bytes.
                let _ = stream.set_nodelay(true);
                let cut: Pin<Box<dyn Future<Output = ()> + Send + Sync>> =
                    Box::pin(ear.clone().heard());
                let connection = Connection { stream, cut: Some(cut), _place: place };
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::StreamExt as _;

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
        let mut incoming = connections(listener, cut.ear(), cut.ear());
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
}
