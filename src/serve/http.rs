//! HTTP over a socket: one request for each connection, bounded in size and time, and at most so many at once. A client that is slow or
//! sends nothing delays nobody but those who wait for its place.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::Poll;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::socket::Client;
use crate::error::{Error, Result};
use crate::sync::{self, LARGE_STACK};

/// How many clients are served at once; others wait to be accepted.
const MAX_CLIENTS: u32 = 32;
/// The most bytes of a request's content.
const MAX_REQUEST: usize = 1024 * 1024;
/// The most bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(50);
/// After this long without a successor, a server that was to be replaced goes on.
const PAUSE: Duration = Duration::from_secs(5);
/// When to accept again after that failed.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// What answers a request. It may block.
pub(super) trait Service: Send + Sync + 'static {
    /// The answer's type.
    const CONTENT_TYPE: &'static str;

    /// Answers a client's POST to this path with this content: the status, and the content.
    fn answer(&self, client: Client, path: &str, content: &[u8]) -> (u16, Vec<u8>);

    /// The content that says why a request was not answered.
    fn problem(&self, why: &str) -> Vec<u8>;
}

/// A service on its socket. It is served until the process ends.
pub struct Served {
    clients: Arc<Clients>,
    runtime: tokio::runtime::Handle,
}

struct Clients {
    /// One for each client, and one for the loop that accepts them.
    places: Semaphore,
    /// The loop shall give its place back.
    leave: Notify,
}

impl Served {
    /// Accepts nobody any more, and waits until those are answered who were accepted, at most for this long. Should the process live on,
    /// it accepts again after some seconds.
    pub fn pause(&self, at_most: Duration) {
        let clients = self.clients.clone();
        let (sender, receiver) = channel();
        self.runtime.spawn(async move {
            let mut all = pin!(clients.places.acquire_many(MAX_CLIENTS));
            let all = poll_fn(|context| {
                let all = all.as_mut().poll(context);
                // Not before this task waits for all places: clients that ask for one later come after it.
                clients.leave.notify_one();
                all
            });
            let all = timeout(at_most, all).await;
            let _ = sender.send(());
            if let Ok(Ok(_all)) = all {
                sleep(PAUSE).await;
            }
        });
        let _ = receiver.recv_timeout(at_most);
    }
}

/// Answers on this socket from now on, on a thread of this name.
///
/// # Errors
/// [`Error::Io`].
pub(super) fn serve<S: Service>(
    name: &'static str,
    socket: OwnedFd,
    service: Arc<S>,
) -> Result<Served> {
    let failed = |e: io::Error| Error::io("the socket's thread", e);
    let runtime = Builder::new_current_thread()
        .enable_all()
        // For the disk, and for looks at other processes.
        .thread_name("socket-block")
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(failed)?;
    let clients = Arc::new(Clients {
        places: Semaphore::new(MAX_CLIENTS as usize),
        leave: Notify::new(),
    });
    let served = Served {
        clients: clients.clone(),
        runtime: runtime.handle().clone(),
    };
    let listener = {
        let _context = runtime.enter();
        UnixListener::from_std(socket.into()).map_err(failed)?
    };
    let run = move || accept_all(&runtime, &listener, &clients, &service);
    sync::spawn(name, LARGE_STACK, run).map_err(failed)?;
    Ok(served)
}

fn accept_all<S: Service>(
    runtime: &Runtime,
    listener: &UnixListener,
    clients: &Arc<Clients>,
    service: &Arc<S>,
) {
    runtime.block_on(async {
        // The semaphore is never closed.
        while let Ok(place) = clients.places.acquire().await {
            let mut leave = pin!(clients.leave.notified());
            let accepted = poll_fn(|context| match leave.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => listener.poll_accept(context).map(Some),
            });
            match accepted.await {
                Some(Ok((connection, _))) => {
                    place.forget();
                    let (clients, service) = (clients.clone(), service.clone());
                    tokio::spawn(async move {
                        let _ = timeout(CONNECTION_TIMEOUT, answer_one(connection, service)).await;
                        clients.places.add_permits(1);
                    });
                }
                // No descriptor is left, perhaps.
                Some(Err(_)) => sleep(RETRY_DELAY).await,
                None => {}
            }
        }
    });
}

async fn answer_one<S: Service>(connection: UnixStream, service: Arc<S>) {
    let Some(client) = Client::admitted(&connection) else {
        return tracing::warn!("a socket was refused to a process of another user");
    };
    let answer = service_fn(|request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(answer(client, request, service).await) }
    });
    let connection = http1::Builder::new()
        // A client that keeps its connection would keep its place.
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(connection), answer);
    // A client that has gone needs no answer.
    let _ = connection.await;
}

async fn answer<S: Service>(
    client: Client,
    request: Request<Incoming>,
    service: Arc<S>,
) -> Response<Full<Bytes>> {
    let refuse = |status, why: &str| response::<S>(status, service.problem(why));
    if request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "only POST is answered");
    }
    let path = request.uri().path().to_owned();
    let content = Limited::new(request.into_body(), MAX_REQUEST).collect();
    let content = match timeout(REQUEST_TIMEOUT, content).await {
        Ok(Ok(content)) => content.to_bytes(),
        Ok(Err(_)) => return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large"),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the request did not arrive"),
    };
    let asked = service.clone();
    match spawn_blocking(move || asked.answer(client, &path, &content)).await {
        Ok((status, content)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            response::<S>(status, content)
        }
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the daemon has failed"),
    }
}

fn response<S: Service>(status: StatusCode, content: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(content));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static(S::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
