//! Models behind the protocols that people's tools speak. A file a protocol; the engines run on threads
//! of their own, and this room has one or two for all connections together.

mod access;
mod auth;
mod compare;
mod defaults;
mod errors;
mod fields;
mod generate;
mod kserve;
mod limits;
mod llama;
mod metrics;
mod openai;
mod page;
mod state;
mod stop_text;
mod stream;
mod tally;
mod timings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

pub use auth::Keys;
pub use defaults::SamplingDefaults;
pub use errors::ApiError;
pub use limits::LARGEST_BODY;
pub use metrics::ModelMetrics;
pub use state::{About, Served, ServerState};

/// Threads for all connections. The engines need the cores.
const THREADS: usize = 2;

/// How often somebody looks whether the server is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The addresses to listen at, or names of them, with commas between.
    pub host: String,
    /// The port; 0 for any that is free.
    pub port: u16,
    /// Keys that let a client in; with none, everybody is.
    pub api_keys: Vec<String>,
    /// How long a client may take to send the next part of a body, or to read the next part of an answer.
    pub timeout: Duration,
    /// Bytes of a request's body at most.
    pub largest_body: usize,
    /// The origin whose pages may ask (`Access-Control-Allow-Origin`); none if absent.
    pub cors: Option<String>,
    /// How tokens are chosen where a request does not say.
    pub sampling: SamplingDefaults,
    /// `/slots` tells what runs.
    pub shows_slots: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_string(),
            port: 8080,
            api_keys: Vec::new(),
            timeout: Duration::from_secs(600),
            largest_body: LARGEST_BODY,
            cors: None,
            sampling: SamplingDefaults::default(),
            shows_slots: true,
        }
    }
}

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nobody can listen at the address.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// The address.
        address: String,
        /// What is wrong.
        error: std::io::Error,
    },
    /// The system gives no threads.
    #[error("cannot start the server's threads: {0}")]
    Threads(std::io::Error),
}

/// A server that listens, but does not answer yet.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    listeners: Vec<TcpListener>,
    address: SocketAddr,
    state: Arc<ServerState>,
}

impl Server {
    /// Listens at the address that the options say.
    ///
    /// # Errors
    /// It cannot.
    ///
    /// # Panics
    /// If there is no model.
    pub fn bind(options: ServerOptions, models: Vec<Served>) -> Result<Self, ServerError> {
        assert!(!models.is_empty(), "a server has a model at least");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(THREADS)
            .thread_name("quantkit-server")
            .enable_all()
            .build()
            .map_err(ServerError::Threads)?;
        let (listeners, address) = runtime.block_on(listen(&options))?;
        let state = Arc::new(ServerState::new(models, options));
        Ok(Self { runtime, listeners, address, state })
    }

    /// Where it listens, the first place if there are several.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stops` says so. Requests that were taken are finished.
    pub fn run(self, stops: impl Fn() -> bool) {
        let Self { runtime, listeners, state, .. } = self;
        let router = router(&state);
        runtime.block_on(async {
            let connections = GracefulShutdown::new();
            let room = Arc::new(Semaphore::new(limits::CONNECTIONS));
            loop {
                // While there is no room, connections wait where the system keeps them.
                let accepted = async {
                    let permit = Arc::clone(&room).acquire_owned().await;
                    (permit, accept(&listeners).await)
                };
                match tokio::time::timeout(LOOK, accepted).await {
                    Ok((Ok(permit), Ok((stream, _)))) => {
                        serve(stream, &router, &state, &connections, permit);
                    }
                    // Out of file handles, say: some will be free again.
                    Ok((_, Err(error))) => {
                        tracing::warn!("a connection was not accepted: {error}");
                        tokio::time::sleep(LOOK).await;
                    }
                    Ok((Err(_), _)) | Err(_) => {}
                }
                if stops() {
                    break;
                }
            }
            drop(listeners);
            state.close();
            connections.shutdown().await;
        });
        for model in &state.models {
            model.service.finish();
        }
    }
}

/// Listens at the first of a host's addresses that can be had.
async fn listen_at_host(host: &str, port: u16) -> std::io::Result<(TcpListener, SocketAddr)> {
    let mut problem = None;
    for address in tokio::net::lookup_host((host, port)).await? {
        match listen_at(address).and_then(|listener| Ok((listener.local_addr()?, listener))) {
            Ok((address, listener)) => return Ok((listener, address)),
            Err(error) => problem = Some(error),
        }
    }
    Err(problem.unwrap_or_else(|| std::io::Error::other("the name has no address")))
}

fn listen_at(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A server that follows another one at once gets its port. On Windows, this would let two share it.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::BACKLOG)
}

/// Listens at all addresses, at the same port.
async fn listen(options: &ServerOptions) -> Result<(Vec<TcpListener>, SocketAddr), ServerError> {
    let mut listeners = Vec::new();
    let (mut first, mut port) = (None, options.port);
    for host in options.host.split(',').map(str::trim) {
        let (listener, address) = listen_at_host(host, port)
            .await
            .map_err(|error| ServerError::Listen { address: format!("{host}:{port}"), error })?;
        port = address.port();
        first.get_or_insert(address);
        listeners.push(listener);
    }
    let address = first.expect("a split text has a part");
    Ok((listeners, address))
}

/// The next connection to any of them.
async fn accept(listeners: &[TcpListener]) -> std::io::Result<(TcpStream, SocketAddr)> {
    std::future::poll_fn(|context| {
        let mut accepted = listeners.iter().map(|listener| listener.poll_accept(context));
        accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

/// Answers a connection's requests on a task of its own.
fn serve(
    stream: TcpStream,
    router: &Router,
    state: &ServerState,
    connections: &GracefulShutdown,
    permit: tokio::sync::OwnedSemaphorePermit,
) {
    // Events are small and are to arrive at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("a connection without TCP_NODELAY: {error}");
    }
    let stream = TokioIo::new(limits::Patient::new(stream, state.options.timeout));
    let service = TowerToHyperService::new(router.clone());
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_TIME)
        .serve_connection(stream, service);
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!("a connection has ended: {error}");
        }
        drop(permit);
    });
}

/// All paths. A protocol's file says its own.
fn router(state: &Arc<ServerState>) -> Router {
    let outside = axum::middleware::from_fn_with_state(Arc::clone(state), access::around);
    Router::new()
        .merge(openai::routes())
        .merge(metrics::routes())
        .merge(compare::routes())
        .merge(page::routes())
        .merge(llama::routes())
        .merge(kserve::routes())
        .fallback(|| async { ApiError::not_found("there is no such path") })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .layer(outside)
        .with_state(Arc::clone(state))
}
