//! Probes and metrics over HTTP. Nothing here shows configuration, environment or a value.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::runtime::task;

/// Scrapers and kubelets are few; more connections than this are someone else's.
const MAX_CONNECTIONS: usize = 32;

/// Says whether something is so now.
pub type Probe = Box<dyn Fn() -> bool + Send + Sync>;

/// What the admin server tells.
pub struct Admin {
    /// The exposition text, or nothing where it cannot be made.
    pub metrics: Box<dyn Fn() -> Option<Vec<u8>> + Send + Sync>,
    /// `/started`
    pub started: Probe,
    /// `/ready`
    pub ready: Probe,
}

impl Admin {
    /// Serves until dropped.
    pub async fn serve(self, listener: TcpListener) {
        let admin = Arc::new(self);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Ok((socket, _)) = listener.accept().await else {
                // Out of file descriptors, most likely: wait for one instead of spinning.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let admin = Arc::clone(&admin);
            task::spawn(async move {
                let answer = service_fn(|request| std::future::ready(Ok::<_, Infallible>(admin.answer(&request))));
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10)).max_buf_size(16 * 1024);
                // An error here is the scraper's: it sees it itself.
                let _broken = http.serve_connection(TokioIo::new(socket), answer).await;
                drop(slot);
            });
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/live" => text(StatusCode::OK, "live\n"),
            "/started" if (self.started)() => text(StatusCode::OK, "started\n"),
            "/started" => text(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
            "/ready" if (self.ready)() => text(StatusCode::OK, "ready\n"),
            "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/metrics" => match (self.metrics)() {
                Some(body) => with_type(StatusCode::OK, "text/plain; version=0.0.4", body.into()),
                None => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /started, /ready, /live and /metrics\n"),
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", Bytes::from_static(body.as_bytes()))
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
