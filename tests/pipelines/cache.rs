//! `mdl build --cache-from` and `--cache-to`, with a folder and with a server that speaks S3's protocol.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::place::{Place, digest, text};

/// How many tensors a build computed, and the manifest's digest; from its progress.
fn computed(output: &Output) -> (usize, String) {
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find_map(|l| l.split_once("computing ")).unwrap_or_else(|| panic!("{said}"));
    (line.1.split(' ').next().unwrap().parse().unwrap(), digest(&text(&output.stdout)))
}

fn build(place: &Place, arguments: &[&str], variables: &[(&str, String)]) -> Output {
    let mut command = place.command();
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command
        .args(["--progress", "json", "build", "-q", "q8_0", "-t", "m", "."])
        .args(arguments)
        .output()
        .unwrap()
}

/// A store that knows nothing, and the same sources.
fn another() -> Place {
    Place::with_sources("SYSTEM be brief\n")
}

/// The blobs of a cache, the largest last.
fn blobs(cache: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(cache.join("1/blobs/sha256")).unwrap();
    let mut found: Vec<PathBuf> = found.map(|b| b.unwrap().path()).collect();
    found.sort_by_key(|p| (p.metadata().unwrap().len(), p.clone()));
    found
}

#[test]
fn a_second_machine_computes_nothing() {
    let cache = Place::new();
    let folder = cache.path("cache").display().to_string();
    let both = ["--cache-from", &folder, "--cache-to", &folder];
    let (all, id) = computed(&build(&another(), &both, &[]));
    assert!(all > 20, "{all}");
    let there = another();
    assert_eq!(computed(&build(&there, &["--cache-from", &folder], &[])), (0, id.clone()));
    assert!(there.ok(&["verify"]).contains("all as it should be"));
    assert!(there.ok(&["gc", "--grace-minutes", "0"]).contains("nothing"), "nothing is left over");
    // Another type for one tensor: one tensor is computed.
    let rule = ["--cache-from", &folder, "--tensor-type", "blk.1.attn_v=q6_K"];
    assert_eq!(computed(&build(&another(), &rule, &[])).0, 1);
    // From a store that has all of it, the cache is filled too.
    let other = cache.path("other").display().to_string();
    assert_eq!(computed(&build(&there, &["--cache-to", &other], &[])), (0, id.clone()));
    assert_eq!(computed(&build(&another(), &["--cache-from", &other, "--offline"], &[])), (0, id));
}

#[test]
fn what_is_not_as_promised_is_made_again() {
    let cache = Place::new();
    let folder = cache.path("cache").display().to_string();
    let both = ["--cache-from", &folder, "--cache-to", &folder];
    let (_, id) = computed(&build(&another(), &both, &[]));
    let largest = || blobs(&cache.path("cache")).pop().unwrap();
    let good = std::fs::read(largest()).unwrap();
    type Poison<'a> = (&'a str, &'a dyn Fn(&Path));
    let change = |to: &dyn Fn(&mut Vec<u8>)| {
        let path = largest();
        let mut bytes = good.clone();
        to(&mut bytes);
        std::fs::write(path, bytes).unwrap();
    };
    let keys = cache.path("cache/1/keys");
    let one_key = || std::fs::read_dir(&keys).unwrap().next().unwrap().unwrap().path();
    let poisons: [Poison<'_>; 6] = [
        ("a flipped bit", &|_| change(&|b| b[1000] ^= 1)),
        ("shorter", &|_| change(&|b| b.truncate(1000))),
        ("longer", &|_| change(&|b| b.push(0))),
        ("a long entry", &|key| std::fs::write(key, vec![b'a'; 1 << 20]).unwrap()),
        ("an entry that is none", &|key| std::fs::write(key, "sha256:../../../etc/passwd 5\n").unwrap()),
        ("another length", &|key| {
            let text = std::fs::read_to_string(key).unwrap();
            let digest = text.split_once(' ').unwrap().0.to_owned();
            std::fs::write(key, format!("{digest} 18446744073709551615\n")).unwrap();
        }),
    ];
    for (title, poison) in poisons {
        poison(&one_key());
        let place = another();
        let output = build(&place, &both, &[]);
        let said = text(&output.stderr);
        assert!(said.contains("poisoned-cache"), "{title}: {said}");
        let (made, again) = computed(&output);
        assert!(made > 0 && again == id, "{title}: {made}");
        // And the cache is good again.
        let (made, again) = computed(&build(&another(), &["--cache-from", &folder], &[]));
        assert!(made == 0 && again == id, "{title}: {made}");
    }
    // An entry whose value was cleared away is none.
    std::fs::remove_file(largest()).unwrap();
    let output = build(&another(), &["--cache-from", &folder, "--deny-warnings"], &[]);
    assert!(computed(&output).0 > 0);
}

/// Bytes with the digest that is promised, of which no tensor can be made: they are looked at all the same.
#[test]
fn blocks_from_a_cache_are_looked_at() {
    let cache = Place::new();
    let folder = cache.path("cache").display().to_string();
    let both = ["--cache-from", &folder, "--cache-to", &folder];
    let (_, id) = computed(&build(&another(), &both, &[]));
    let blob = blobs(&cache.path("cache")).pop().unwrap();
    let promised = format!("sha256:{}", blob.file_name().unwrap().to_str().unwrap());
    // Scales that are no numbers.
    let bytes = vec![0xff; blob.metadata().unwrap().len() as usize];
    use sha2::Digest as _;
    let hex: String = sha2::Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    std::fs::write(blob.with_file_name(&hex), bytes).unwrap();
    for key in std::fs::read_dir(cache.path("cache/1/keys")).unwrap() {
        let path = key.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace(&promised, &format!("sha256:{hex}"))).unwrap();
    }
    let output = build(&another(), &["--cache-from", &folder], &[]);
    assert!(text(&output.stderr).contains("poisoned-cache"));
    let (made, again) = computed(&output);
    assert!(made > 0 && again == id);
}

#[test]
fn a_cache_that_fails_ends_no_build() {
    let place = another();
    place.write("file", "");
    let said = place.fails(2, &["build", "-t", "m", ".", "--cache-from", "ftp://x/y"]);
    assert!(said.contains("no kind of bucket"), "{said}");
    let said = place.fails(2, &["build", "-t", "m", ".", "--cache-from", "s3://me:hunter2@x/y"]);
    assert!(!said.contains("hunter2"), "{said}");
    let said = place.fails(2, &["build", "-t", "m", ".", "--offline", "--cache-to", "s3://bucket/x"]);
    assert!(said.contains("--offline"), "{said}");
    assert_ne!(place.mdl(&["build", "-t", "m", ".", "--cache-to", "file/x"]).status.code(), Some(0));
    // Nothing listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let variables = s3_variables(&format!("http://{closed}"));
    let output = build(&place, &["--cache-from", "s3://bucket/x", "--cache-to", "s3://bucket/x"], &variables);
    let said = text(&output.stderr);
    assert!(said.contains("the build goes on without it"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    assert!(computed(&output).0 > 20);
}

fn s3_variables(url: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", url.to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "me".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "hunter2".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("NO_PROXY", "127.0.0.1".to_owned()),
        ("no_proxy", "127.0.0.1".to_owned()),
    ]
}

/// A process that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const MOTO: &str = "
import boto3, sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
url = 'http://%s:%d' % server.get_host_and_port()
s3 = boto3.client('s3', endpoint_url=url, region_name='us-east-1', aws_access_key_id='me', aws_secret_access_key='hunter2')
s3.create_bucket(Bucket='bucket')
print(url, flush=True)
for line in sys.stdin:
    objects = s3.list_objects_v2(Bucket='bucket', Prefix='some/prefix/1/blobs/')['Contents']
    largest = max(objects, key=lambda o: o['Size'])
    body = bytearray(s3.get_object(Bucket='bucket', Key=largest['Key'])['Body'].read())
    body[len(body) // 2] ^= 1
    s3.put_object(Bucket='bucket', Key=largest['Key'], Body=bytes(body))
    print('poisoned', flush=True)
";

#[test]
fn a_bucket_is_shared() {
    let program = std::env::var_os("MDL_PYTHON").unwrap_or_else(|| "python3".into());
    let there = Command::new(&program).args(["-c", "import moto.server, boto3"]).output();
    if !there.is_ok_and(|o| o.status.success()) {
        let required = std::env::var_os("MDL_REQUIRE_CLIENTS").is_some_and(|v| v == "1");
        assert!(!required, "there is no python with moto, and MDL_REQUIRE_CLIENTS is 1");
        eprintln!("skipped: there is no python with moto");
        return;
    }
    let mut command = Command::new(program);
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let child = command.args(["-c", MOTO]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut server = Server(child.spawn().unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let variables = s3_variables(lines.next().unwrap().unwrap().trim());
    let bucket = "s3://bucket/some/prefix";
    let both = ["--cache-from", bucket, "--cache-to", bucket];
    let (all, id) = computed(&build(&another(), &both, &variables));
    assert!(all > 20, "{all}");
    assert_eq!(computed(&build(&another(), &["--cache-from", bucket], &variables)), (0, id.clone()));

    use std::io::Write as _;
    server.0.stdin.as_mut().unwrap().write_all(b"poison\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "poisoned");
    let output = build(&another(), &both, &variables);
    assert!(text(&output.stderr).contains("poisoned-cache"));
    let (made, again) = computed(&output);
    assert!(made > 0 && made < all && again == id, "{made}");
    assert_eq!(computed(&build(&another(), &["--cache-from", bucket], &variables)), (0, id));
}
