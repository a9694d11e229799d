//! From a request to a recipe, as a Modelfile would give one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::uploads::{ADAPTERS, FILES};
use super::{CreateRequest, name};
use crate::diagnostic::{Source, Span};
use crate::ir::{Message, ParameterValue, Prompt, Role};
use crate::modelfile::{self, AdapterLine, Recipe, Spanned, parameters};
use crate::passes::quantize::mixture::{self, Preset};
use crate::prompt::{self, Template};
use crate::server::answer::parameters_from_json;
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::ollama::failures::{self, excerpt};
use crate::server::ollama::types::MessageIn;
use crate::store::{Digest, Name};

/// The most files of a model.
const MOST_FILES: usize = 4096;

/// What is to be made.
#[derive(Debug)]
pub struct Plan {
    /// The model's name.
    pub name: Name,
    /// What it is made of.
    pub recipe: Recipe,
    /// Its quantization, if not the source's.
    pub preset: Option<&'static Preset>,
    /// The blob of each file, by the path that the recipe has.
    pub files: Vec<(PathBuf, Digest)>,
    /// What is done first.
    pub first: &'static str,
    /// The model it is made from.
    from: Option<(String, Name)>,
}

impl Plan {
    /// Reads a request. Nothing is looked up yet.
    ///
    /// # Errors
    /// 400.
    pub fn of(request: CreateRequest) -> Result<Plan, ApiError> {
        let name = name(request.model, request.name)?;
        let files = files(request.files, FILES)?;
        let adapters = files_of_adapters(request.adapters)?;
        let from = request.from.filter(|f| !f.is_empty());
        let (line, first, from) = match (from, files.as_slice()) {
            (Some(text), _) => {
                let parsed = Name::parse(&text)
                    .map_err(|_| ApiError::bad_request("invalid model name").param("from"))?;
                (parsed.full(), "reading model metadata", Some((text, parsed)))
            }
            (None, []) => {
                let neither = "neither 'from' or 'files' was specified";
                return Err(ApiError::bad_request(match request.modelfile {
                    Some(_) => format!("{neither}: a 'modelfile' is not read"),
                    None => neither.to_owned(),
                }));
            }
            (None, [(path, _)]) => (path.display().to_string(), first_status(&files), None),
            (None, _) => (FILES.to_owned(), first_status(&files), None),
        };
        let mut recipe = Recipe { from: vec![spanned("from", line)], ..Recipe::default() };
        let adapter = match adapters.as_slice() {
            [] => None,
            [(path, _)] if is_gguf(path) => Some(path.display().to_string()),
            _ => Some(ADAPTERS.to_owned()),
        };
        recipe
            .adapters
            .extend(adapter.map(|path| AdapterLine { path: spanned("adapters", path), scale: None }));
        let some = |text: Option<String>| text.filter(|t| !t.is_empty());
        recipe.prompt = Prompt {
            template: some(request.template),
            system: some(request.system),
            messages: messages(request.messages.unwrap_or_default())?,
            parameters: request.parameters.as_ref().map_or(Ok(Vec::new()), parameters)?,
            licenses: licenses(request.license)?,
            renderer: some(request.renderer),
            parser: some(request.parser),
            requires: some(request.requires).map(version).transpose()?,
        };
        // What the model begins with decides: files are not read where it is another model.
        let files = if from.is_some() { Vec::new() } else { files };
        Ok(Plan {
            name,
            recipe,
            preset: preset(some(request.quantize).or(some(request.quantization)))?,
            files: files.into_iter().chain(adapters).collect(),
            first,
            from,
        })
    }

    /// Makes sure that the blobs and the model are there, and that the template can be read.
    ///
    /// # Errors
    /// 400 and 404.
    pub fn check(self, app: &App) -> Result<Plan, ApiError> {
        let refuse = |errors| failures::refuse(app, errors);
        if let Some((text, from)) = &self.from
            && app.store.find(from).map_err(refuse)?.is_none()
        {
            return Err(failures::no_model(text).param("from"));
        }
        for (path, digest) in &self.files {
            if app.store.find_blob(digest).map_err(refuse)?.is_none() {
                return Err(no_blob(&path.to_string_lossy(), digest));
            }
        }
        if let Some(template) = &self.recipe.prompt.template {
            let checked = Template::choose(Some(template), None, prompt::Limits::default());
            checked.map_err(|e| ApiError::bad_request(format!("template error: {e}")).param("template"))?;
        }
        Ok(self)
    }
}

/// A blob that was not uploaded.
pub fn no_blob(path: &str, digest: &Digest) -> ApiError {
    let path = path.replace(super::UPLOADS, "");
    ApiError::bad_request(format!("{}: blob {:?} not found", excerpt(&path), digest.to_string()))
}

fn first_status(files: &[(PathBuf, Digest)]) -> &'static str {
    match files.iter().any(|(path, _)| is_gguf(path)) {
        true => "parsing GGUF",
        false => "converting model",
    }
}

fn is_gguf(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|e| e == "gguf")
}

/// A value and the field it comes from.
fn spanned(field: &str, value: String) -> Spanned<String> {
    let range = 0..value.len();
    let source = Arc::new(Source { name: field.to_owned(), text: value.clone() });
    Spanned { value, span: Span { source, range } }
}

/// The paths and blobs of `files`, below `directory`.
fn files(
    given: Option<BTreeMap<String, String>>,
    directory: &str,
) -> Result<Vec<(PathBuf, Digest)>, ApiError> {
    let given = given.unwrap_or_default();
    if given.len() > MOST_FILES {
        return Err(ApiError::bad_request(format!("more than {MOST_FILES} files")));
    }
    let one = |(path, digest): (String, String)| {
        if !is_relative(&path) {
            return Err(ApiError::bad_request("file path must be relative").param("files"));
        }
        let digest = digest.parse().map_err(|_| ApiError::bad_request("invalid digest format"))?;
        Ok((PathBuf::from(format!("{directory}/{path}")), digest))
    };
    given.into_iter().map(one).collect()
}

fn files_of_adapters(given: Option<BTreeMap<String, String>>) -> Result<Vec<(PathBuf, Digest)>, ApiError> {
    let all = files(given, ADAPTERS)?;
    match all.iter().filter(|(path, _)| is_gguf(path)).count() {
        0 | 1 => Ok(all),
        _ => Err(ApiError::bad_request("only one adapter is currently supported").param("adapters")),
    }
}

/// Go's `fs.ValidPath`, and no path that another system takes for an absolute one.
fn is_relative(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !path.contains(|c: char| c == '\\' || c == ':' || c.is_control())
        && path.len() <= 1024
}

fn preset(name: Option<String>) -> Result<Option<&'static Preset>, ApiError> {
    let Some(name) = name else { return Ok(None) };
    let known = mixture::find(&name).ok_or_else(|| {
        let names: Vec<String> = mixture::PRESETS.iter().map(|p| p.name.to_uppercase()).collect();
        let message = format!(
            "unsupported quantization type {} - supported types are {}",
            excerpt(&name.to_uppercase()),
            names.join(", ")
        );
        ApiError::bad_request(message).param("quantize")
    })?;
    Ok(Some(known))
}

/// A name that nobody knows is refused: a model would be made that is not what was asked for.
fn parameters(given: &Map<String, Value>) -> Result<Vec<(String, ParameterValue)>, ApiError> {
    if let Some(unknown) = given.keys().find(|name| parameters::find(name).is_none()) {
        let message = format!("unknown parameter '{}'", excerpt(unknown));
        return Err(ApiError::bad_request(message).param("parameters"));
    }
    parameters_from_json(given)
}

fn version(text: String) -> Result<String, ApiError> {
    let wrong = || ApiError::bad_request("requires must be a valid semver (e.g. 0.14.0)").param("requires");
    modelfile::version(&text).ok_or_else(wrong)
}

fn licenses(given: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = || ApiError::bad_request("license must be a string or a list of strings").param("license");
    match given {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text].into_iter().filter(|t| !t.is_empty()).collect()),
        Some(Value::Array(all)) => {
            all.into_iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn messages(given: Vec<MessageIn>) -> Result<Vec<Message>, ApiError> {
    let one = |message: MessageIn| {
        let role = Role::from_name(&message.role.unwrap_or_default().to_lowercase());
        let role = role.filter(|r| *r != Role::Tool).ok_or_else(|| {
            let message = "message role must be one of \"system\", \"user\", or \"assistant\"";
            ApiError::bad_request(message).param("messages")
        })?;
        Ok(Message { role, content: message.content.unwrap_or_default() })
    };
    given.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn plan(value: Value) -> Result<Plan, String> {
        let request = serde_json::from_value(value).map_err(|e| e.to_string())?;
        Plan::of(request).map_err(|e| e.message)
    }

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn requests_become_recipes() {
        let plan = plan(json!({
            "name": "m", "files": {"model.safetensors": DIGEST, "sub/tokenizer.json": DIGEST},
            "adapters": {"a.gguf": DIGEST}, "quantization": "Q4_K_M", "license": ["MIT", "CC0"], "system": "s",
            "template": "t", "requires": "v0.14", "parameters": {"stop": ["x"], "seed": null, "temperature": 1},
            "messages": [{"role": "User", "content": "hi"}],
        }))
        .unwrap();
        assert_eq!((plan.name.to_string().as_str(), plan.first), ("m:latest", "converting model"));
        assert_eq!(plan.preset.unwrap().name, "q4_K_M");
        assert_eq!(plan.files.len(), 3);
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("server_ollama_create_recipe", plan.recipe.to_string());
        });
    }

    #[test]
    fn another_model_goes_before_files() {
        let plan = plan(json!({"model": "m", "from": "base:1b", "files": {"x.gguf": DIGEST}})).unwrap();
        assert!(plan.files.is_empty());
        assert_eq!(plan.recipe.from[0].value, "registry.ollama.ai/library/base:1b");
    }

    #[test]
    fn hostile_values_are_read_or_refused() {
        let fields = [
            "model",
            "name",
            "from",
            "files",
            "adapters",
            "quantize",
            "quantization",
            "template",
            "license",
            "system",
            "parameters",
            "messages",
            "renderer",
            "parser",
            "requires",
            "modelfile",
            "stream",
        ];
        let base = json!({"model": "m", "from": "x"});
        crate::server::ollama::hostile::each_field(&fields, &base, |request| {
            let error = Plan::of(request).err()?;
            assert_eq!(error.status, 400);
            assert!(error.message.len() < 1024, "{}", error.message);
            Some(error.message)
        });
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let mut told = String::new();
        for value in [
            json!({"from": "x"}),
            json!({"model": "../x", "from": "x"}),
            json!({"model": "m"}),
            json!({"model": "m", "modelfile": "FROM x"}),
            json!({"model": "m", "from": "/etc/passwd"}),
            json!({"model": "m", "from": "~root/x"}),
            json!({"model": "m", "files": {"/etc/passwd": DIGEST}}),
            json!({"model": "m", "files": {"../x.gguf": DIGEST}}),
            json!({"model": "m", "files": {"a/../../x.gguf": DIGEST}}),
            json!({"model": "m", "files": {"C:\\x.gguf": DIGEST}}),
            json!({"model": "m", "files": {"C:x.gguf": DIGEST}}),
            json!({"model": "m", "files": {"": DIGEST}}),
            json!({"model": "m", "files": {"a//b": DIGEST}}),
            json!({"model": "m", "files": {"a\u{0}b": DIGEST}}),
            json!({"model": "m", "files": {"x.gguf": "sha256:12"}}),
            json!({"model": "m", "files": {"x.gguf": "/etc/passwd"}}),
            json!({"model": "m", "files": {"x.gguf": 1}}),
            json!({"model": "m", "files": []}),
            json!({"model": "m", "from": "x", "adapters": {"a.gguf": DIGEST, "b.gguf": DIGEST}}),
            json!({"model": "m", "from": "x", "quantize": "q9"}),
            json!({"model": "m", "from": "x", "requires": "new"}),
            json!({"model": "m", "from": "x", "license": 1}),
            json!({"model": "m", "from": "x", "license": [1]}),
            json!({"model": "m", "from": "x", "parameters": {"temprature": 1}}),
            json!({"model": "m", "from": "x", "parameters": {"temperature": "hot"}}),
            json!({"model": "m", "from": "x", "messages": [{"role": "tool"}]}),
            json!({"model": "m", "from": "x", "messages": [{"content": "x"}]}),
        ] {
            let error = plan(value.clone()).unwrap_err();
            told.push_str(&format!("{}\n    {error}\n", value.to_string().replace(DIGEST, "DIGEST")));
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots"),
            prepend_module_to_snapshot => false,
        }, {
            insta::assert_snapshot!("server_ollama_create_wrong", told);
        });
    }
}
