//! Servers: a socket, and a table of methods written by hand, because only a few of them matter.

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{Fake, scheduler, store};

type Call = http::Request<Body>;
type Reply = http::Response<Body>;

/// Which server a request came in at.
#[derive(Clone)]
pub(super) struct Here {
    pub(super) fake: Arc<Fake>,
    /// The store's id, or the member's number.
    pub(super) number: u64,
}

macro_rules! service {
    ($service:ident, $name:literal, $answer:path) => {
        #[derive(Clone)]
        struct $service(Weak<Fake>, u64);

        impl NamedService for $service {
            const NAME: &'static str = $name;
        }

        impl Service<Call> for $service {
            type Response = Reply;
            type Error = Infallible;
            type Future = BoxFuture<Reply, Infallible>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, call: Call) -> Self::Future {
                let Some(fake) = self.0.upgrade() else {
                    return Box::pin(async { Ok(Status::unavailable("over").into_http()) });
                };
                let here = Here { fake, number: self.1 };
                let method = call.uri().path().rsplit('/').next().unwrap_or("").to_owned();
                Box::pin(async move { Ok($answer(here, &method, call).await) })
            }
        }
    };
}

service!(StoreService, "tikvpb.Tikv", store::answer);
service!(SchedulerService, "pdpb.PD", scheduler::answer);
service!(KeyspaceService, "keyspacepb.Keyspace", scheduler::answer);

/// Serves one unary call with an async function of the request.
pub(super) async fn unary<Q, A, F, Fut>(call: Call, act: F) -> Reply
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
    F: FnOnce(Q) -> Fut + Send + 'static,
    Fut: Future<Output = Result<A, Status>> + Send + 'static,
{
    struct Once<F>(Option<F>);

    impl<Q, A, F, Fut> UnaryService<Q> for Once<F>
    where
        F: FnOnce(Q) -> Fut,
        Fut: Future<Output = Result<A, Status>> + Send + 'static,
    {
        type Response = A;
        type Future = BoxFuture<Response<A>, Status>;

        fn call(&mut self, request: Request<Q>) -> Self::Future {
            let act = self.0.take().expect("called once");
            let answer = act(request.into_inner());
            Box::pin(async move { answer.await.map(Response::new) })
        }
    }

    Grpc::new(ProstCodec::<A, Q>::default()).unary(Once(Some(act)), call).await
}

pub(super) fn no_such_method() -> Reply {
    Status::unimplemented("the fake does not serve this").into_http()
}

pub(super) async fn store(fake: Arc<Fake>, store: u64) -> (String, Runtime) {
    let service = StoreService(Arc::downgrade(&fake), store);
    serve(Server::builder().add_service(service)).await
}

pub(super) async fn member(fake: Arc<Fake>, number: usize) -> (String, Runtime) {
    let (fake, number) = (Arc::downgrade(&fake), number as u64);
    let keyspaces = KeyspaceService(fake.clone(), number);
    let scheduler = SchedulerService(fake, number);
    serve(Server::builder().add_service(scheduler).add_service(keyspaces)).await
}

async fn serve(router: Router) -> (String, Runtime) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let serving = runtime.spawn(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = router.serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(async move { server.await.unwrap() });
        address
    });
    (serving.await.unwrap(), runtime)
}
