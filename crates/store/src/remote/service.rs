//! What tells object stores apart: where they are, who may, how they call things.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::multipart::MultipartStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use tokio::runtime::{Builder, Handle};

use super::attempt::told;
use super::client::{Control, Settings};
use super::data::Data;
use super::sign::{Signer, Who};

/// What the library does: names, and the beginning and end of uploads.
pub(super) trait Store: ObjectStore + MultipartStore {}

impl<T: ObjectStore + MultipartStore> Store for T {}

/// A kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// S3, and all that speak as it does.
    Amazon,
    /// Google Cloud Storage, by its XML interface.
    Google,
    /// Azure Blob Storage; a bucket is called a container there.
    Azure,
}

/// A bucket that was found: who signs, where it is, of whom.
struct Found {
    who: Who,
    store: Box<dyn Store>,
    /// Of the bucket.
    url: String,
    endpoint: String,
    anonymous: bool,
}

impl Service {
    /// Of a scheme; `None` for that of a web server.
    pub(super) fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "s3" => Some(Self::Amazon),
            "gs" => Some(Self::Google),
            "az" | "abfs" | "abfss" => Some(Self::Azure),
            _ => None,
        }
    }

    /// Both ways to a bucket, as the environment describes it.
    pub(super) fn open(self, bucket: &str, settings: &Settings) -> io::Result<(Data, Control)> {
        // One thread: it only keeps the library's connections alive.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let found = match self {
            Self::Amazon => amazon(bucket, settings)?,
            #[cfg(feature = "gcp")]
            Self::Google => google(bucket, settings)?,
            #[cfg(not(feature = "gcp"))]
            Self::Google => return Err(missing("gcp")),
            #[cfg(feature = "azure")]
            Self::Azure => azure(bucket, settings)?,
            #[cfg(not(feature = "azure"))]
            Self::Azure => return Err(missing("azure")),
        };
        let Found { who, store, url, endpoint, anonymous } = found;
        let handle: Handle = runtime.handle().clone();
        let signer = Signer { who, anonymous, patience: settings.attempt, runtime: handle };
        let data = Data::open(&url, settings.attempt, Some(signer))?;
        let bucket = bucket.split('@').next().unwrap_or_default().into();
        Ok((data, Control { service: self, store, bucket, endpoint, runtime }))
    }

    /// Headers of every request that writes.
    pub(super) fn of_writes(self) -> Option<(&'static str, String)> {
        (self == Self::Azure).then(|| ("x-ms-blob-type", "BlockBlob".into()))
    }
}

#[cfg(not(all(feature = "gcp", feature = "azure")))]
fn missing(feature: &str) -> io::Error {
    let what = format!("not in this build: build it with the feature `{feature}`");
    io::Error::new(ErrorKind::Unsupported, what)
}

fn options(settings: &Settings) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(settings.attempt)
        .with_connect_timeout(Duration::from_secs(5))
        .with_http1_only()
}

/// Attempts are counted, jittered and bounded here, not in the library.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn refused(error: &object_store::Error) -> io::Error {
    io::Error::other(told(&error.to_string()))
}

fn is_yes(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1"))
}

fn amazon(bucket: &str, settings: &Settings) -> io::Result<Found> {
    use AmazonS3ConfigKey::{
        Endpoint, Region, RequestPayer, SkipSignature, VirtualHostedStyleRequest,
    };
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_client_options(options(settings))
        .with_retry(no_retries());
    if let Some((key, secret)) = &settings.credentials {
        builder = builder.with_access_key_id(key).with_secret_access_key(secret);
    }
    let endpoint = settings.endpoint.clone().or_else(|| builder.get_config_value(&Endpoint));
    if let Some(endpoint) = &endpoint {
        builder = builder.with_allow_http(endpoint.starts_with("http://")).with_endpoint(endpoint);
    }
    let is_set = |key| is_yes(builder.get_config_value(&key));
    let region = builder.get_config_value(&Region).unwrap_or_else(|| "us-east-1".into());
    let hosted = is_set(VirtualHostedStyleRequest);
    let url = match &endpoint {
        Some(endpoint) if hosted => endpoint.trim_end_matches('/').to_owned(),
        Some(endpoint) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
        None if hosted => format!("https://{bucket}.s3.{region}.amazonaws.com"),
        None => format!("https://s3.{region}.amazonaws.com/{bucket}"),
    };
    let (anonymous, requester_pays) = (is_set(SkipSignature), is_set(RequestPayer));
    let store = builder.build().map_err(|e| refused(&e))?;
    let credentials = Arc::clone(store.credentials());
    let endpoint = endpoint.unwrap_or_else(|| format!("s3 {region}"));
    let who = Who::Amazon { credentials, region, requester_pays };
    Ok(Found { who, store: Box::new(store), url, endpoint, anonymous })
}

#[cfg(feature = "gcp")]
fn google(bucket: &str, settings: &Settings) -> io::Result<Found> {
    use object_store::StaticCredentialProvider;
    use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};
    let mut builder =
        GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(no_retries());
    let mut anonymous = is_yes(builder.get_config_value(&GoogleConfigKey::SkipSignature));
    let mut endpoint =
        settings.endpoint.clone().or_else(|| builder.get_config_value(&GoogleConfigKey::BaseUrl));
    // What Google's own clients read; nobody signs for an emulator.
    if let (None, Ok(host)) = (&endpoint, std::env::var("STORAGE_EMULATOR_HOST"))
        && !host.is_empty()
    {
        endpoint = Some(if host.contains("://") { host } else { format!("http://{host}") });
        anonymous = settings.credentials.is_none();
    }
    let endpoint = endpoint.unwrap_or_else(|| "https://storage.googleapis.com".into());
    let endpoint = endpoint.trim_end_matches('/').to_owned();
    builder = builder
        .with_client_options(options(settings).with_allow_http(endpoint.starts_with("http://")))
        .with_config(GoogleConfigKey::BaseUrl, &endpoint);
    if anonymous {
        builder = builder.with_skip_signature(true);
    }
    let token = match &settings.credentials {
        Some((_, token)) => Some(token.clone()),
        // Nothing is asked of a machine that has no say.
        None => anonymous.then(String::new),
    };
    if let Some(bearer) = token {
        let credential = StaticCredentialProvider::new(GcpCredential { bearer });
        builder = builder.with_credentials(Arc::new(credential));
    }
    let store = builder.build().map_err(|e| refused(&e))?;
    let who = Who::Google { credentials: Arc::clone(store.credentials()) };
    let url = format!("{endpoint}/{bucket}");
    Ok(Found { who, store: Box::new(store), url, endpoint, anonymous })
}

/// `bucket` is a container, or `container@account.dfs.core.windows.net`.
#[cfg(feature = "azure")]
fn azure(bucket: &str, settings: &Settings) -> io::Result<Found> {
    use object_store::azure::{AzureConfigKey as Config, MicrosoftAzureBuilder};
    let (container, host) = bucket.split_once('@').map_or((bucket, None), |(c, h)| (c, Some(h)));
    let mut builder =
        MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(no_retries());
    for (key, value) in super::connection::of_environment()? {
        if builder.get_config_value(&key).is_none() {
            builder = builder.with_config(key, value);
        }
    }
    let mut suffix = "core.windows.net".to_owned();
    if let Some((account, rest)) = host.and_then(|host| host.split_once('.')) {
        builder = builder.with_account(account);
        let rest = rest.strip_prefix("dfs.").or_else(|| rest.strip_prefix("blob."));
        suffix = rest.unwrap_or("core.windows.net").to_owned();
    }
    if let Some((account, key)) = &settings.credentials {
        builder = builder.with_account(account).with_access_key(key);
    }
    let value = |builder: &MicrosoftAzureBuilder, key| builder.get_config_value(&key);
    let emulator = is_yes(value(&builder, Config::UseEmulator));
    let account = value(&builder, Config::AccountName)
        .or_else(|| emulator.then(|| super::connection::EMULATOR.0.to_owned()));
    let account = account.ok_or_else(|| {
        let what = "no account: set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING";
        io::Error::new(ErrorKind::InvalidInput, what)
    })?;
    let endpoint = match settings.endpoint.clone().or_else(|| value(&builder, Config::Endpoint)) {
        Some(endpoint) if host.is_none() => endpoint,
        _ if emulator => {
            let url = std::env::var("AZURITE_BLOB_STORAGE_URL");
            let url = url.unwrap_or_else(|_| "http://127.0.0.1:10000".into());
            format!("{}/{account}", url.trim_end_matches('/'))
        }
        _ => format!("https://{account}.blob.{suffix}"),
    };
    let endpoint = endpoint.trim_end_matches('/').to_owned();
    if emulator && value(&builder, Config::AccessKey).is_none() {
        builder = builder.with_access_key(super::connection::EMULATOR.1);
    }
    let anonymous = is_yes(value(&builder, Config::SkipSignature));
    // One way for all: the emulator is an endpoint like any other.
    let store = builder
        .with_use_emulator(false)
        .with_account(&account)
        .with_endpoint(endpoint.clone())
        .with_client_options(options(settings).with_allow_http(endpoint.starts_with("http://")))
        .build()
        .map_err(|e| refused(&e))?;
    let who = Who::Azure { credentials: Arc::clone(store.credentials()), account };
    let url = format!("{endpoint}/{container}");
    Ok(Found { who, store: Box::new(store), url, endpoint, anonymous })
}
