//! A proxy on loopback between a client and a server. It counts requests, and fails as a test asks.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::client;

/// What the proxy does with a request.
#[derive(Clone, PartialEq)]
pub enum Fault {
    /// Passes it on.
    None,
    /// Nobody listens.
    Refuse,
    /// Takes it, and never answers.
    Hang,
    /// Passes it on when this is set no more.
    Hold,
    /// Passes on half of the answer's body.
    Cut,
    /// Answers with this status and body.
    Status(u16, &'static str),
    /// Sends who asks to this address.
    Redirect(String),
    /// Answers 429, to be asked again after so many seconds.
    TooMany(u64),
    /// Answers with a body of so many bytes.
    Long(usize),
    /// Answers with this status and body, unless the credentials of the request have this in them: those are passed on.
    Unless(&'static str, u16, &'static str),
    /// Passes it on after this time.
    Slow(Duration),
}

/// A proxy before one server.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    upstream: String,
    client: reqwest::Client,
    fault: watch::Sender<Fault>,
    tls: Mutex<Option<TlsAcceptor>>,
    requests: AtomicUsize,
    /// What was asked for: the request line's target, and the name that TLS was asked by.
    targets: Mutex<Vec<String>>,
    names: Mutex<Vec<String>>,
}

impl Proxy {
    /// A proxy before the server at this address (`http://127.0.0.1:8200`).
    pub fn before(upstream: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            client: client(),
            fault: watch::Sender::new(Fault::None),
            tls: Mutex::new(None),
            requests: AtomicUsize::new(0),
            targets: Mutex::default(),
            names: Mutex::default(),
        });
        runtime.spawn(shared.clone().serve(listener, address));
        Self {
            address,
            shared,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its address for clients that speak TLS with it, by this name.
    pub fn https_url(&self, name: &str) -> String {
        format!("https://{name}:{}", self.address.port())
    }

    /// From now on this is done with requests. Those that hang go on hanging; those that are held are passed on.
    pub fn set(&self, fault: Fault) {
        let refuses = fault == Fault::Refuse;
        self.shared.fault.send_replace(fault);
        // Until it does, or listens again.
        while std::net::TcpStream::connect(self.address).is_ok() == refuses {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// New connections are to speak TLS.
    pub fn speak_tls(&self, acceptor: TlsAcceptor) {
        *self.shared.tls.lock().unwrap() = Some(acceptor);
    }

    /// What requests asked for, as they wrote it: a proxy's client writes the whole address.
    pub fn targets(&self) -> Vec<String> {
        self.shared.targets.lock().unwrap().clone()
    }

    /// The names that clients sent in their TLS handshakes.
    pub fn tls_names(&self) -> Vec<String> {
        self.shared.names.lock().unwrap().clone()
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, mut listener: TcpListener, address: SocketAddr) {
        let mut fault = self.fault.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => Some(accepted),
                _ = fault.wait_for(|fault| *fault == Fault::Refuse) => None,
            };
            match accepted {
                Some(Ok((stream, _))) => {
                    tokio::spawn(self.clone().connection(stream));
                }
                Some(Err(_)) => {}
                None => {
                    drop(listener);
                    let _ = fault.wait_for(|fault| *fault != Fault::Refuse).await;
                    listener = bind_again(address).await;
                }
            }
        }
    }

    /// Serves a connection until its end, or until nobody listens any more.
    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let mut fault = self.fault.subscribe();
        let tls = self.tls.lock().unwrap().clone();
        let http = hyper::server::conn::http1::Builder::new();
        let shared = self.clone();
        let service = service_fn(move |request| shared.clone().answer(request));
        let served = async {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        let name = stream.get_ref().1.server_name().unwrap_or_default();
                        self.names.lock().unwrap().push(name.to_owned());
                        let _ = http.serve_connection(TokioIo::new(stream), service).await;
                    }
                }
                None => {
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                }
            }
        };
        tokio::select! {
            () = served => {}
            _ = fault.wait_for(|fault| *fault == Fault::Refuse) => {}
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, hyper::Error> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let target = format!("{} {}", request.method(), request.uri());
        self.targets.lock().unwrap().push(target);
        let fault = self.fault.borrow().clone();
        let plain = |status: u16| {
            Response::builder()
                .status(status)
                .header("content-type", "text/plain")
        };
        let whole =
            |body: &'static str| Answer::Whole(Full::new(Bytes::from_static(body.as_bytes())));
        match fault {
            Fault::Hang => std::future::pending().await,
            Fault::Hold => {
                let mut fault = self.fault.subscribe();
                let _ = fault.wait_for(|fault| *fault != Fault::Hold).await;
                self.pass_on(request, false).await
            }
            Fault::Status(status, body) => Ok(plain(status).body(whole(body)).unwrap()),
            Fault::Redirect(to) => Ok(plain(307).header("location", to).body(whole("")).unwrap()),
            Fault::TooMany(seconds) => Ok(plain(429)
                .header("retry-after", seconds)
                .body(whole(""))
                .unwrap()),
            Fault::Unless(credentials, status, body) => {
                let header = request.headers().get("authorization");
                let header = header.and_then(|header| header.to_str().ok());
                match header.is_some_and(|header| header.contains(credentials)) {
                    true => self.pass_on(request, false).await,
                    false => Ok(plain(status).body(whole(body)).unwrap()),
                }
            }
            Fault::Long(length) => Ok(plain(200)
                .body(Answer::Whole(Full::new(Bytes::from(vec![b' '; length]))))
                .unwrap()),
            Fault::Slow(pause) => {
                tokio::time::sleep(pause).await;
                self.pass_on(request, false).await
            }
            Fault::Cut => self.pass_on(request, true).await,
            Fault::None | Fault::Refuse => self.pass_on(request, false).await,
        }
    }

    async fn pass_on(
        &self,
        request: Request<Incoming>,
        is_cut: bool,
    ) -> Result<Response<Answer>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let answer = self
            .client
            .request(head.method, format!("{}{}", self.upstream, path))
            .headers(head.headers)
            .body(body)
            .send()
            .await
            .unwrap();
        let mut passed = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if name != "transfer-encoding" && name != "content-length" && name != "connection" {
                passed = passed.header(name, value);
            }
        }
        let body = answer.bytes().await.unwrap();
        Ok(match is_cut {
            false => passed.body(Answer::Whole(Full::new(body))).unwrap(),
            true => passed
                .header("content-length", body.len())
                .body(Answer::Half {
                    first: Some(body.slice(..body.len() / 2)),
                    pause: Box::pin(tokio::time::sleep(Duration::from_millis(20))),
                })
                .unwrap(),
        })
    }
}

async fn bind_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

enum Answer {
    Whole(Full<Bytes>),
    /// What comes before the connection breaks.
    Half {
        first: Option<Bytes>,
        /// Until the first half is on its way.
        pause: Pin<Box<tokio::time::Sleep>>,
    },
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Answer::Whole(body) => Pin::new(body).poll_frame(context).map_err(|e| match e {}),
            Answer::Half { first, pause } => match first.take() {
                Some(half) => Poll::Ready(Some(Ok(Frame::data(half)))),
                None => pause
                    .as_mut()
                    .poll(context)
                    .map(|()| Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Answer::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Answer::Whole(body) => body.size_hint(),
            Answer::Half { .. } => hyper::body::SizeHint::default(),
        }
    }
}
