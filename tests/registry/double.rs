//! A small HTTP server that answers as a test tells it, and a registry made with it.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use mdl::store::Digest;
use tokio_rustls::rustls;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// With the query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// First and last byte of the header Range.
    pub fn range(&self) -> Option<(u64, u64)> {
        let (from, to) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((from.parse().ok()?, to.parse().ok()?))
    }

    pub fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.path.contains(part)
    }
}

type Write_ = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// An answer.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Writes what follows the headers, by itself; then the connection ends.
    pub stream: Option<Write_>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), stream: None }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Ends the connection behind it.
    pub fn close(mut self) -> Reply {
        let body = std::mem::take(&mut self.body);
        self.stream = Some(Box::new(move |out| out.write_all(&body)));
        self
    }

    pub fn to(address: impl Into<String>) -> Reply {
        Reply::new(307, "").header("Location", address)
    }

    pub fn stream(
        status: u16,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Reply {
        Reply { stream: Some(Box::new(write)), ..Reply::new(status, "") }
    }
}

type Answer = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server that runs until the process ends.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        Server::with_tls(None, answer)
    }

    pub fn with_tls(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { address: listener.local_addr().unwrap(), log: Arc::default() };
        let answer: Arc<Answer> = Arc::new(answer);
        let log = server.log.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, log, tls) = (answer.clone(), log.clone(), tls.clone());
                std::thread::spawn(move || {
                    let _ = match tls {
                        None => {
                            let reading = stream.try_clone().unwrap();
                            converse(&mut BufReader::new(reading), &mut &stream, &answer, &log)
                        }
                        Some(config) => secure(stream, config, &answer, &log),
                    };
                });
            }
        });
        server
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What was asked so far.
    pub fn log(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// How often it was asked so.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.log().iter().filter(|r| r.is(method, part)).count()
    }
}

fn secure(
    stream: TcpStream,
    config: Arc<rustls::ServerConfig>,
    answer: &Arc<Answer>,
    log: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let connection = rustls::ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(connection, stream);
    // One request a connection: reading and writing share the stream.
    let request = read(&mut BufReader::new(&mut stream))?;
    if let Some(request) = request {
        log.lock().unwrap().push(request.clone());
        write(&mut stream, &request, answer(&request), false)?;
        stream.conn.send_close_notify();
        stream.flush()?;
    }
    Ok(())
}

fn converse(
    reader: &mut impl BufRead,
    writer: &mut impl Write,
    answer: &Arc<Answer>,
    log: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    while let Some(request) = read(reader)? {
        log.lock().unwrap().push(request.clone());
        if !write(writer, &request, answer(&request), true)? {
            break;
        }
    }
    Ok(())
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        ..Request::default()
    };
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => request.headers.push((name.to_owned(), value.trim().to_owned())),
            None => break,
        }
    }
    if let Some(length) = request.header("content-length").and_then(|v| v.parse().ok()) {
        request.body = vec![0; length];
        reader.read_exact(&mut request.body)?;
    } else if request.header("transfer-encoding").is_some() {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
            let mut chunk = vec![0; length + 2];
            reader.read_exact(&mut chunk)?;
            chunk.truncate(length);
            request.body.extend(chunk);
            if length == 0 {
                break;
            }
        }
    }
    Ok(Some(request))
}

/// Whether the connection goes on.
fn write(writer: &mut impl Write, request: &Request, reply: Reply, keep: bool) -> io::Result<bool> {
    if reply.status == 0 {
        reply.stream.map_or(Ok(()), |stream| stream(writer))?;
        return Ok(false);
    }
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let has = |wanted: &str| reply.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(wanted));
    if reply.stream.is_none() && !has("content-length") && !has("transfer-encoding") {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    if !keep || reply.stream.is_some() {
        head += "Connection: close\r\n";
    }
    head += "\r\n";
    writer.write_all(head.as_bytes())?;
    if let Some(stream) = reply.stream {
        stream(writer)?;
        writer.flush()?;
        return Ok(false);
    }
    if request.method != "HEAD" {
        writer.write_all(&reply.body)?;
    }
    writer.flush()?;
    Ok(keep)
}

/// What a registry holds.
#[derive(Default)]
pub struct Shelf {
    pub blobs: HashMap<String, Vec<u8>>,
    /// By `repository:reference`: media type and bytes.
    pub manifests: HashMap<String, (String, Vec<u8>)>,
    uploads: HashMap<String, Vec<u8>>,
    /// How many uploads were begun.
    begun: usize,
}

/// A registry that holds what was put on it.
#[derive(Clone, Default)]
pub struct Registry(pub Arc<Mutex<Shelf>>);

impl Registry {
    pub fn blob(&self, bytes: &[u8]) -> String {
        let digest = Digest::of(bytes).to_string();
        self.0.lock().unwrap().blobs.insert(digest.clone(), bytes.to_owned());
        digest
    }

    pub fn manifest(&self, name: &str, media_type: &str, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        let (repository, _) = name.rsplit_once(':').unwrap();
        let mut shelf = self.0.lock().unwrap();
        shelf.manifests.insert(format!("{repository}:{digest}"), (media_type.to_owned(), bytes.clone()));
        shelf.manifests.insert(name.to_owned(), (media_type.to_owned(), bytes));
        digest
    }

    /// Answers as the distribution specification says.
    pub fn answer(&self, request: &Request) -> Reply {
        let mut shelf = self.0.lock().unwrap();
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let Some(rest) = path.strip_prefix("/v2/") else { return Reply::new(404, "") };
        let missing = |what: &str| {
            Reply::new(404, format!(r#"{{"errors":[{{"code":"X","message":"{what} unknown"}}]}}"#))
        };
        if let Some((repository, reference)) = rest.split_once("/manifests/") {
            let key = format!("{repository}:{reference}");
            if request.method == "PUT" {
                let digest = Digest::of(&request.body);
                let kind = request.header("content-type").unwrap_or_default().to_owned();
                shelf
                    .manifests
                    .insert(format!("{repository}:{digest}"), (kind.clone(), request.body.clone()));
                shelf.manifests.insert(key, (kind, request.body.clone()));
                return Reply::new(201, "").header("Docker-Content-Digest", digest.to_string());
            }
            return match shelf.manifests.get(&key) {
                Some((kind, bytes)) => Reply::new(200, bytes.clone()).header("Content-Type", kind.clone()),
                None => missing("manifest"),
            };
        }
        if let Some((_, id)) = rest.split_once("/blobs/uploads/") {
            return upload(&mut shelf, request, path, id, query);
        }
        let Some((_, digest)) = rest.split_once("/blobs/") else { return missing("page") };
        let Some(bytes) = shelf.blobs.get(digest) else { return missing("blob") };
        match request.range() {
            None => Reply::new(200, bytes.clone()),
            Some((from, to)) => {
                let part = bytes[from as usize..=to as usize].to_vec();
                Reply::new(206, part).header("Content-Range", format!("bytes {from}-{to}/{}", bytes.len()))
            }
        }
    }

    pub fn serve(&self) -> Server {
        let registry = self.clone();
        Server::start(move |request| registry.answer(request))
    }
}

fn upload(shelf: &mut Shelf, request: &Request, path: &str, id: &str, query: &str) -> Reply {
    let field = |name: &str| {
        url::form_urlencoded::parse(query.as_bytes()).find(|(n, _)| n == name).map(|(_, v)| v.into_owned())
    };
    match request.method.as_str() {
        "POST" => {
            if let (Some(mount), Some(_)) = (field("mount"), field("from"))
                && shelf.blobs.contains_key(&mount)
            {
                return Reply::new(201, "");
            }
            shelf.begun += 1;
            let id = format!("u{}", shelf.begun);
            shelf.uploads.insert(id.clone(), Vec::new());
            Reply::new(202, "").header("Location", format!("{path}{id}?state=x"))
        }
        "PATCH" => {
            let Some(bytes) = shelf.uploads.get_mut(id) else { return Reply::new(404, "") };
            let from =
                request.header("content-range").and_then(|r| r.split_once('-')?.0.parse::<usize>().ok());
            if from.is_some_and(|from| from != bytes.len()) {
                return Reply::new(416, "");
            }
            bytes.extend(&request.body);
            let end = bytes.len().saturating_sub(1);
            Reply::new(202, "")
                .header("Location", format!("{path}?state=y"))
                .header("Range", format!("0-{end}"))
        }
        "PUT" => {
            let Some(mut bytes) = shelf.uploads.remove(id) else { return Reply::new(404, "") };
            bytes.extend(&request.body);
            let digest = Digest::of(&bytes).to_string();
            if field("digest").as_deref() != Some(&digest) {
                return Reply::new(
                    400,
                    r#"{"errors":[{"code":"DIGEST_INVALID","message":"digest invalid"}]}"#,
                );
            }
            shelf.blobs.insert(digest, bytes);
            Reply::new(201, "")
        }
        _ => Reply::new(405, ""),
    }
}
