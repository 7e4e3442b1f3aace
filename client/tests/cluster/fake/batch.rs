//! The batched stream: commands come many at a time and are answered as they are done.

use proto::tikvpb::{
    BatchCommandsRequest, BatchCommandsResponse, batch_commands_response::Response as Item,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, BoxStream, http};
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::serve::Here;
use super::store::command;

pub(super) async fn answer(here: Here, call: http::Request<Body>) -> http::Response<Body> {
    Grpc::new(ProstCodec::<BatchCommandsResponse, BatchCommandsRequest>::default())
        .streaming(Batches(here), call)
        .await
}

#[derive(Clone)]
struct Batches(Here);

impl StreamingService<BatchCommandsRequest> for Batches {
    type Response = BatchCommandsResponse;
    type ResponseStream = BoxStream<BatchCommandsResponse>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<BatchCommandsRequest>>) -> Self::Future {
        let here = self.0.clone();
        Box::pin(async move {
            let (answers, outbound) = mpsc::unbounded_channel();
            tokio::spawn(carry(here, request.into_inner(), answers));
            let outbound = UnboundedReceiverStream::new(outbound);
            Ok(Response::new(Box::pin(outbound) as Self::ResponseStream))
        })
    }
}

async fn carry(
    here: Here,
    mut batches: Streaming<BatchCommandsRequest>,
    answers: mpsc::UnboundedSender<Result<BatchCommandsResponse, Status>>,
) {
    while let Some(Ok(batch)) = batches.next().await {
        assert_eq!(batch.requests.len(), batch.request_ids.len());
        here.fake.record("BatchCommands");
        for (id, request) in batch.request_ids.into_iter().zip(batch.requests) {
            let (here, answers) = (here.clone(), answers.clone());
            tokio::spawn(async move {
                let cmd = request.cmd.expect("a request is a command");
                // A failure ends the stream, as a connection that breaks does.
                let answer = tokio::select! {
                    answer = command(here, cmd) => answer,
                    () = answers.closed() => return,
                };
                let answer = answer.map(|cmd| BatchCommandsResponse {
                    request_ids: vec![id],
                    responses: vec![Item { cmd: Some(cmd) }],
                    ..Default::default()
                });
                let _ = answers.send(answer);
            });
        }
    }
}
