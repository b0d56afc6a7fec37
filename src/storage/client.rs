//! One bucket, through object_store: blocking calls, limited retries, errors that say what to do.

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};
use tokio::runtime::{Builder, Runtime};

use super::transport::{NoInstance, UreqConnector};
use super::{Address, Object, StorageError};
use crate::support::interrupt::{self, Interrupted};
use crate::support::redact::shown;
use crate::support::retry::Patience;

/// How often a request that may succeed a moment later is sent, where AWS_MAX_ATTEMPTS says nothing.
const ATTEMPTS: u32 = 8;

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How often a wait looks for Ctrl-C.
const GLANCE: Duration = Duration::from_millis(200);

/// A connection to a bucket.
#[derive(Debug)]
pub(super) struct Client {
    store: AmazonS3,
    runtime: Runtime,
    endpoint: String,
}

impl Client {
    /// Prepares for requests to an address's bucket; nothing is sent yet.
    pub(super) fn connect(address: &Address) -> Result<Self, StorageError> {
        let setup = |cause: String| StorageError::Setup { address: address.to_string(), cause };
        let patience = patience(std::env::var("AWS_MAX_ATTEMPTS").ok()).map_err(setup)?;
        let builder = AmazonS3Builder::from_env()
            .with_bucket_name(&address.bucket)
            // Single deletions are what every server knows.
            .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true")
            // The transport tries again itself, as every other client of quantkit does.
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(UreqConnector { patience });
        let given = |key| builder.get_config_value(&key).is_some();
        if given(AmazonS3ConfigKey::AccessKeyId) != given(AmazonS3ConfigKey::SecretAccessKey) {
            let cause = "of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY only one is set";
            return Err(setup(cause.to_string()));
        }
        let endpoint = endpoint(&builder);
        let store = builder.build().map_err(|error| setup(reason(&error)))?;
        let runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| setup(error.to_string()))?;
        Ok(Self { store, runtime, endpoint })
    }

    /// The server's address.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What is known about an object that must be there.
    pub(super) fn find(&self, address: &Address) -> Result<Object, StorageError> {
        match self.wait(self.store.head(&path(address)?))? {
            Ok(meta) => Ok(object(meta, &address.bucket)),
            Err(error) => Err(self.error(address, &error)),
        }
    }

    /// All objects below a prefix, by key.
    pub(super) fn list(&self, prefix: &Address) -> Result<Vec<Object>, StorageError> {
        let below = path(prefix)?;
        let listing = self.store.list(Some(&below)).try_collect::<Vec<ObjectMeta>>();
        let found = self.wait(listing)?.map_err(|error| self.error(prefix, &error))?;
        let mut objects: Vec<Object> =
            found.into_iter().map(|meta| object(meta, &prefix.bucket)).collect();
        objects.sort_by(|a, b| a.address.key.cmp(&b.address.key));
        Ok(objects)
    }

    /// Hands the bytes of an object on, from one on, as they come.
    pub(super) fn read_from(
        &self,
        object: &Object,
        start: u64,
        on_bytes: &mut dyn FnMut(&[u8]) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let options = GetOptions {
            range: (start > 0).then_some(GetRange::Offset(start)),
            if_match: object.tag.clone(),
            ..GetOptions::default()
        };
        let address = &object.address;
        let failed = |error| self.error(address, &error);
        let answer = self.wait(self.store.get_opts(&path(address)?, options))?.map_err(failed)?;
        let mut chunks = answer.into_stream();
        while let Some(chunk) = self.wait(chunks.next())? {
            on_bytes(&chunk.map_err(failed)?)?;
        }
        Ok(())
    }

    /// A whole small object; `None` where there is none.
    pub(super) fn read(&self, address: &Address) -> Result<Option<Vec<u8>>, StorageError> {
        let location = path(address)?;
        let answer = self.wait(async { self.store.get(&location).await?.bytes().await })?;
        match answer {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error @ object_store::Error::NotFound { .. }) if !is_bucket_missing(&error) => {
                Ok(None)
            }
            Err(error) => Err(self.error(address, &error)),
        }
    }

    /// Puts an object in the place of what may be there. Ctrl-C does not end this: what is to be sent
    /// may be just what a stopped run keeps.
    pub(super) fn write(&self, address: &Address, bytes: Vec<u8>) -> Result<(), StorageError> {
        let location = path(address)?;
        let sent = self.runtime.block_on(self.store.put(&location, bytes.into()));
        sent.map(|_| ()).map_err(|error| self.error(address, &error))
    }

    /// Removes an object, which need not be there.
    pub(super) fn remove(&self, address: &Address) -> Result<(), StorageError> {
        match self.runtime.block_on(self.store.delete(&path(address)?)) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.error(address, &error)),
        }
    }

    /// Runs a request to its end, unless a stop is asked for.
    fn wait<T>(&self, request: impl Future<Output = T>) -> Result<T, Interrupted> {
        let mut request = pin!(request);
        loop {
            interrupt::check()?;
            let glance = async { tokio::time::timeout(GLANCE, request.as_mut()).await };
            if let Ok(answer) = self.runtime.block_on(glance) {
                return Ok(answer);
            }
        }
    }

    /// What an error of object_store means to a user.
    fn error(&self, address: &Address, error: &object_store::Error) -> StorageError {
        use object_store::Error as E;
        let (address, endpoint) = (address.to_string(), self.endpoint.clone());
        if let Some(&interrupted) = cause::<Interrupted>(error) {
            return interrupted.into();
        }
        if cause::<NoInstance>(error).is_some() {
            return StorageError::NoCredentials { address };
        }
        let found = reason(error);
        // Errors of listings have no kind of their own.
        let is_status = |status: &str| found.starts_with(status);
        match error {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                StorageError::Denied { address, endpoint, found }
            }
            _ if is_status("401") || is_status("403") => {
                StorageError::Denied { address, endpoint, found }
            }
            E::NotFound { .. } => StorageError::NotFound { address, endpoint, found },
            _ if is_status("404") => StorageError::NotFound { address, endpoint, found },
            E::Precondition { .. } => StorageError::Replaced { address },
            _ => match cause::<HttpError>(error) {
                Some(lost) => {
                    let cause = shown(&lost.source().map_or(lost.to_string(), ToString::to_string));
                    StorageError::Unreachable { address, endpoint, cause }
                }
                None => StorageError::Failed { address, endpoint, found },
            },
        }
    }
}

fn patience(attempts: Option<String>) -> Result<Patience, String> {
    let attempts = match attempts.as_deref().filter(|text| !text.is_empty()) {
        None => ATTEMPTS,
        Some(text) => match text.parse() {
            Ok(attempts @ 1..) => attempts,
            _ => return Err(format!("AWS_MAX_ATTEMPTS is {text:?}, expected a number from 1")),
        },
    };
    Ok(Patience { attempts, first_wait: FIRST_WAIT, longest_wait: LONGEST_WAIT, stops: true })
}

/// The server that requests will go to, for messages and for telling servers apart.
fn endpoint(builder: &AmazonS3Builder) -> String {
    let value = |key| builder.get_config_value(&key).filter(|value| !value.is_empty());
    let given = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
    match given {
        Some(endpoint) => shown(endpoint.trim_end_matches('/')),
        None => {
            let region = value(AmazonS3ConfigKey::Region);
            format!("https://s3.{}.amazonaws.com", region.as_deref().unwrap_or("us-east-1"))
        }
    }
}

fn path(address: &Address) -> Result<Path, StorageError> {
    Path::parse(&address.key).map_err(|error| StorageError::Address {
        address: address.to_string(),
        problem: error.to_string(),
    })
}

fn object(meta: ObjectMeta, bucket: &str) -> Object {
    let address = Address { bucket: bucket.to_string(), key: meta.location.to_string() };
    let modified = meta.last_modified.to_rfc3339();
    Object { address, size: meta.size, tag: meta.e_tag, modified }
}

/// The first error of a kind in the chain of causes.
fn cause<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|one| one.downcast_ref())
}

fn is_bucket_missing(error: &object_store::Error) -> bool {
    error.to_string().contains("NoSuchBucket")
}

/// What the server said, in short: of an error's text, the status and the words in its XML.
fn reason(error: &object_store::Error) -> String {
    let text = shown(&error.to_string());
    let between = |start: &str, end: &str| {
        let (_, rest) = text.split_once(start)?;
        Some(rest.split_once(end)?.0.trim().to_string())
    };
    let status = between("status code: ", ":");
    let words = [status, between("<Code>", "</Code>"), between("<Message>", "</Message>")];
    let words: Vec<String> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
    match words.is_empty() {
        true => text.trim_start_matches("Generic S3 error: ").to_string(),
        false => words.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_are_found_in_its_error() {
        let failed = |text: &str| object_store::Error::Generic {
            store: "S3",
            source: text.to_string().into(),
        };
        let denied = "Error performing GET http://h/b/k in 1ms - Server returned non-2xx status \
                      code: 403 Forbidden: <?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>\
                      <Message>Access Denied.</Message></Error>";
        assert_eq!(reason(&failed(denied)), "403 Forbidden, AccessDenied, Access Denied.");
        assert_eq!(reason(&failed("something else")), "something else");
    }

    #[test]
    fn attempts_are_counted_as_other_tools_count_them() {
        let most = |text: &str| patience(Some(text.to_string())).map(|patience| patience.attempts);
        assert_eq!((most("1"), most("5"), most("")), (Ok(1), Ok(5), Ok(ATTEMPTS)));
        assert!(most("0").unwrap_err().contains("AWS_MAX_ATTEMPTS is \"0\""));
    }
}
