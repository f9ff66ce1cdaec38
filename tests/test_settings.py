"""What the environment may say, and how the gateway answers when it makes no sense."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest

from gateway.settings import Environment, Settings, SettingsError
from gateway.settings.faults import names_of

DOCUMENTATION = Path(__file__).parents[1] / "docs" / "settings.md"

SECRET = "s" * 64
GOOD = {
    "DATABASE_URL": "postgresql://authenticator:secret-password@localhost/postgres",
    "CLERK_JWT_ISSUER": "https://issuer.example",
    "N8N_BASE_URL": "https://n8n.example",
    "N8N_INTERNAL_AUTH_SECRET": SECRET,
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> pytest.MonkeyPatch:
    """An environment in which the gateway would start, and no `.env`."""
    monkeypatch.chdir(str(tmp_path))
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def faults() -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    return str(caught.value).splitlines()


def test_the_defaults_are_those_of_production(environment: pytest.MonkeyPatch) -> None:
    assert environment
    settings = Settings.load()
    assert settings.environment is Environment.PRODUCTION
    assert settings.limit == (100, 60)
    assert settings.hmac_timestamp_tolerance == 300
    assert settings.request_timeout_seconds == 60
    assert not settings.dev_skip_auth


def test_an_empty_environment_names_all_that_is_missing(environment: pytest.MonkeyPatch) -> None:
    for name in GOOD:
        environment.delenv(name)
    told = faults()
    assert (
        "DATABASE_URL is missing: set it, such as postgresql://user:password@host:5432/postgres,"
        " or SUPABASE_URL with its keys"
    ) in told
    assert "N8N_BASE_URL is missing: where n8n is, such as http://n8n:5678" in told
    assert sorted(line.partition(" is missing")[0] for line in told) == sorted(GOOD)


@pytest.mark.parametrize(
    ("alias", "name", "value", "expected"),
    [
        ("CLERK_ISSUER", "clerk_jwt_issuer", "https://other.example", "https://other.example"),
        ("N8N_WEBHOOK_URL", "n8n_base_url", "http://n8n:5678", "http://n8n:5678"),
        ("HMAC_MAX_AGE_SECONDS", "hmac_timestamp_tolerance", "120", 120),
        ("ALLOWED_ORIGINS", "cors_origins", '["https://a.example"]', ("https://a.example",)),
    ],
)
def test_the_other_names_are_taken_too(
    environment: pytest.MonkeyPatch, alias: str, name: str, value: str, expected: object
) -> None:
    first = {"clerk_jwt_issuer": "CLERK_JWT_ISSUER", "n8n_base_url": "N8N_BASE_URL"}.get(name)
    if first:
        environment.delenv(first)
    environment.setenv(alias, value)
    assert getattr(Settings.load(), name) == expected


@pytest.mark.parametrize("kind", ["pk_test_", "pk_live_"])
def test_the_issuer_is_that_of_the_publishable_key(environment: pytest.MonkeyPatch, kind: str) -> None:
    environment.delenv("CLERK_JWT_ISSUER")
    encoded = base64.b64encode(b"clerk.example.com$").decode().rstrip("=")
    environment.setenv("CLERK_PUBLISHABLE_KEY", kind + encoded)
    assert Settings.load().clerk_jwt_issuer == "https://clerk.example.com"
    environment.setenv("CLERK_JWT_ISSUER", "https://wins.example")
    assert Settings.load().clerk_jwt_issuer == "https://wins.example"


@pytest.mark.parametrize("key", ["sk_test_Y2xlcmsuZXhhbXBsZS5jb20k", "pk_test_", "pk_test_%", "pk_test_YWJj"])
def test_what_is_no_publishable_key_is_told_once(environment: pytest.MonkeyPatch, key: str) -> None:
    environment.delenv("CLERK_JWT_ISSUER")
    environment.setenv("CLERK_PUBLISHABLE_KEY", key)
    assert faults() == [
        "CLERK_PUBLISHABLE_KEY must be the publishable key of a Clerk instance: pk_test_… or pk_live_…"
    ]


def test_debug_is_a_level_of_the_log_unless_another_is_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("DEBUG", "true")
    assert Settings.load().log_level == "DEBUG"
    environment.setenv("LOG_LEVEL", "warning")
    assert Settings.load().log_level == "WARNING"


def test_the_documentation_has_every_setting_with_its_names_and_its_default() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \|([^|]*)\| (.*) \|$", DOCUMENTATION.read_text(), re.MULTILINE)
    told = {name: (default.strip(), text) for name, default, text in rows}
    settings = {names_of(name, field)[0]: (name, field) for name, field in Settings.model_fields.items()}
    assert told.keys() == settings.keys()
    for documented, (name, field) in settings.items():
        default, text = told[documented]
        assert all(f"Also `{other}`" in text for other in names_of(name, field)[1:])
        if isinstance(field.default, int | float):
            assert default == str(field.default).lower()


def test_the_first_name_wins(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CLERK_ISSUER", "https://other.example")
    assert Settings.load().clerk_jwt_issuer == GOOD["CLERK_JWT_ISSUER"]


@pytest.mark.parametrize(
    "text", ["https://a.example, https://b.example", '["https://a.example","https://b.example"]']
)
def test_lists_come_with_commas_or_as_json(environment: pytest.MonkeyPatch, text: str) -> None:
    environment.setenv("CORS_ORIGINS", text)
    assert Settings.load().cors_origins == ("https://a.example", "https://b.example")


def test_a_limit_can_be_said_in_one(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RATE_LIMIT", "30/minute")
    assert Settings.load().limit == (30, 60)


def test_every_fault_is_told_at_once_and_no_value(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("N8N_INTERNAL_AUTH_SECRET", "too-short")
    environment.setenv("DEV_SKIP_AUTH", "true")
    environment.setenv("RATE_LIMIT", "lots")
    environment.setenv("LOG_LEVEL", "LOUD")
    environment.setenv("CORS_ORIGINS", "[")
    environment.setenv("CLERK_JWKS_URL", "ftp://issuer.example")
    environment.setenv("CLERK_JWT_KEY", "-----BEGIN NONSENSE-----")
    environment.setenv("HTTP_PORT", "123456")
    environment.delenv("DATABASE_URL")
    told = faults()
    assert [line.split(" ")[0] for line in told] == [
        "LOG_LEVEL", "HTTP_PORT", "CORS_ORIGINS", "DATABASE_URL", "CLERK_JWKS_URL", "CLERK_JWT_KEY",
        "N8N_INTERNAL_AUTH_SECRET", "RATE_LIMIT", "DEV_SKIP_AUTH",
    ]  # fmt: skip
    assert "too-short" not in "".join(told)


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("HTTP_PORT", "70000", "must be at most 65535 (by default it is 8000)"),
        ("HTTP_PORT", "-1", "must be at least 0 (by default it is 8000)"),
        ("GRPC_PORT", "x", "must be a whole number (by default it is 50051)"),
        ("METRICS_PORT", "1.5", "must be a whole number"),
        ("REQUEST_TIMEOUT_SECONDS", "soon", "must be a number (by default it is 60)"),
        ("REQUEST_TIMEOUT_SECONDS", "0", "must be above 0 (by default it is 60)"),
        ("DEBUG", "maybe", "must be true or false"),
        ("ENVIRONMENT", "prod", "must be production, staging or development (by default it is production)"),
        ("LOG_FORMAT", "xml", "must be json or text (by default it is json)"),
        ("FORWARDED_HEADER", "x", "must be forwarded or x-forwarded-for"),
        ("RATE_LIMIT", "5", "must look like 30/minute, with one of: second, minute, hour, day"),
        ("N8N_BASE_URL", "n8n:5678", "must be an http:// or https:// URL, such as http://n8n:5678"),
        ("N8N_BASE_URL", "http://", "must be an http:// or https:// URL, such as http://n8n:5678"),
        ("N8N_BASE_URL", "http://n8n:port", "must be an http:// or https:// URL, such as http://n8n:5678"),
    ],
)
def test_a_fault_says_what_is_expected(
    environment: pytest.MonkeyPatch, name: str, value: str, fault: str
) -> None:
    environment.setenv(name, value)
    assert faults() == [f"{name} {fault}"]


@pytest.mark.parametrize("value", ["localhost:3000", "https://app.example/", "https://app.example/path"])
def test_an_origin_has_a_scheme_and_no_path(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("CORS_ORIGINS", f"https://other.example,{value}")
    told = "must list origins such as https://app.example.com, without a path"
    assert faults() == [f"CORS_ORIGINS {told}: {value}"]


@pytest.mark.parametrize("value", ["*", "http://localhost:3000", "capacitor://localhost"])
def test_other_origins_are_taken(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("CORS_ORIGINS", value)
    assert Settings.load().cors_origins == (value,)


def test_a_name_that_is_mistyped_is_told(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("CLERK_JWT_ISSUER")
    environment.setenv("CLERK_JWT_ISUER", "https://issuer.example")
    assert "CLERK_JWT_ISUER is no setting: is CLERK_JWT_ISSUER meant?" in faults()


def test_one_in_the_file_is_told_too(environment: pytest.MonkeyPatch) -> None:
    assert Settings.mistyped() == {}
    Path(".env").write_text("CLERK_AUTHORISED_PARTIES=https://app.example\nRATE_LIMITS=5/day\n")
    assert Settings.mistyped() == {
        "CLERK_AUTHORISED_PARTIES": "CLERK_AUTHORIZED_PARTIES",
        "RATE_LIMITS": "RATE_LIMIT",
    }
    environment.setenv("RATE_LIMIT", "5/day")
    assert set(Settings.mistyped()) == {"CLERK_AUTHORISED_PARTIES"}


def test_a_file_that_cannot_be_read_is_told(environment: pytest.MonkeyPatch) -> None:
    assert environment
    Path(".env").write_bytes(b"DATABASE_URL=\xff\xfe")
    assert faults() == [".env cannot be read: UnicodeDecodeError"]


FOREIGN = (
    "N8N_HOST N8N_PORT N8N_PROTOCOL N8N_ENCRYPTION_KEY N8N_EDITOR_BASE_URL N8N_LOG_LEVEL WEBHOOK_URL PGHOST "
    "POSTGRES_PASSWORD DATABASE_HOST DATABASE_PASSWORD REDIS_HOST REDIS_PORT REDIS_PASSWORD HOSTNAME HOSTS "
    "HTTP_PROXY HTTPS_PROXY GRPC_TRACE GRPC_VERBOSITY GRPC_POLL_STRATEGY KUBERNETES_SERVICE_HOST "
    "NEXT_PUBLIC_SUPABASE_URL NEXT_PUBLIC_CLERK_PUBLISHABLE_KEY SUPABASE_ACCESS_TOKEN CLERK_WEBHOOK_SECRET "
    "CLERK_API_URL LOG_FILE DEBUGGER METRICS_PATH TLS_CA_FILE VAULT_ADDR VAULT_TOKEN PATH HOME LANG "
)


def test_what_is_another_programs_is_passed_over(environment: pytest.MonkeyPatch) -> None:
    for name in FOREIGN.split():
        environment.setenv(name, "x")
    assert Settings.mistyped() == {}


def test_a_short_secret_and_the_bypass_are_for_development(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENVIRONMENT", "development")
    environment.setenv("N8N_INTERNAL_AUTH_SECRET", "short")
    environment.setenv("DEV_SKIP_AUTH", "true")
    assert Settings.load().dev_skip_auth


def test_what_is_given_in_the_program_wins(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CLERK_JWT_ISSUER", "https://environment.example")
    settings = Settings.load(
        clerk_jwt_issuer="https://program.example", n8n_base_url="http://program.example"
    )
    assert settings.clerk_jwt_issuer == "https://program.example"
    assert settings.n8n_base_url == "http://program.example"


def test_secrets_are_not_shown(environment: pytest.MonkeyPatch) -> None:
    assert environment
    shown = repr(Settings.load())
    assert SECRET not in shown
    assert "secret-password" not in shown


@pytest.mark.parametrize("environment_name", ["production", "staging", "development"])
def test_a_secret_must_not_be_empty_anywhere(environment: pytest.MonkeyPatch, environment_name: str) -> None:
    environment.setenv("ENVIRONMENT", environment_name)
    environment.setenv("N8N_INTERNAL_AUTH_SECRET", "")
    [told] = faults()
    assert told.startswith("N8N_INTERNAL_AUTH_SECRET is missing: ")
    assert told.endswith("`openssl rand -hex 32` makes one")
    with pytest.raises(SettingsError, match="N8N_INTERNAL_AUTH_SECRET must not be empty"):
        Settings.load(n8n_internal_auth_secret="")


def test_what_is_empty_is_not_set(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CLERK_AUDIENCE", "")
    environment.setenv("HTTP_PORT", "")
    environment.setenv("CORS_ORIGINS", "")
    environment.setenv("N8N_BASE_URL", "")
    environment.setenv("N8N_WEBHOOK_URL", "http://n8n:5678")
    settings = Settings.load()
    assert (settings.clerk_audience, settings.http_port, settings.cors_origins) == (None, 8000, ())
    assert settings.n8n_base_url == "http://n8n:5678"


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
@pytest.mark.parametrize("url", ["hunter2@host/0", "https://:hunter2@host", "localhost:6379", "://hunter2"])
def test_a_url_of_another_service_is_refused_without_its_password(
    environment: pytest.MonkeyPatch, name: str, url: str
) -> None:
    environment.setenv(name, url)
    [told] = faults()
    assert told.startswith(f"{name} must be a URL that begins with ")
    assert "hunter2" not in told


def test_a_password_that_breaks_a_url_is_not_told(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("REDIS_URL", "redis://:hunter2/x@host:6379/0")
    assert faults() == ["REDIS_URL is not a valid URL: a password in it must be percent-encoded"]


SUPABASE = {
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_ANON_KEY": "sb_publishable_x",
    "SUPABASE_SERVICE_ROLE_KEY": "sb_secret_x",
}


def test_supabase_will_do_in_place_of_a_database(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("DATABASE_URL")
    for name, value in SUPABASE.items():
        environment.setenv(name, value)
    settings = Settings.load()
    assert settings.database_url is None
    assert settings.supabase_url == SUPABASE["SUPABASE_URL"]
    assert "sb_secret_x" not in repr(settings)


def test_supabase_needs_its_keys_where_it_is_the_database(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SUPABASE_URL", SUPABASE["SUPABASE_URL"])
    assert Settings.load().database_url is not None
    environment.delenv("DATABASE_URL")
    needs = "is missing: SUPABASE_URL needs it, unless DATABASE_URL is set"
    assert faults() == [f"SUPABASE_ANON_KEY {needs}", f"SUPABASE_SERVICE_ROLE_KEY {needs}"]
    environment.setenv("SUPABASE_URL", "project.supabase.co")
    assert [line.split(" ")[0] for line in faults()] == [
        "SUPABASE_URL", "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY"
    ]  # fmt: skip


def test_keys_of_supabase_are_not_mixed_up(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SUPABASE_ANON_KEY", "sb_secret_hunter2")
    environment.setenv("SUPABASE_SERVICE_ROLE_KEY", "sb_publishable_hunter2")
    environment.setenv("SUPABASE_JWT_SECRET", "hunter2")
    told = faults()
    assert [line.split(" ")[0] for line in told] == [
        "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_JWT_SECRET"
    ]  # fmt: skip
    assert "hunter2" not in "".join(told)


VAULT_KEY = "A" * 43 + "="


def test_the_vault_key_has_an_id_and_can_be_changed(environment: pytest.MonkeyPatch) -> None:
    assert Settings.load().vault_keys == []
    environment.setenv("VAULT_KEY", VAULT_KEY)
    assert Settings.load().vault_keys == [("1", bytes(32))]
    environment.setenv("VAULT_KEY", f"2026:{'B' * 43}=, 1:{VAULT_KEY}")
    assert [key_id for key_id, _ in Settings.load().vault_keys] == ["2026", "1"]


@pytest.mark.parametrize(
    "value", ["x", VAULT_KEY[:-4], "a b:" + VAULT_KEY, f"{VAULT_KEY},{VAULT_KEY}", "hunter2,"]
)
def test_a_vault_key_of_another_form_is_refused_and_not_told(
    environment: pytest.MonkeyPatch, value: str
) -> None:
    environment.setenv("VAULT_KEY", value)
    [fault] = faults()
    told = "VAULT_KEY must be 32 bytes in base64 (`openssl rand -base64 32`)"
    assert fault == f"{told}; to change it, NEW_ID:NEW,OLD_ID:OLD"


def test_trusted_proxies_are_addresses_and_networks(environment: pytest.MonkeyPatch) -> None:
    assert Settings.load().proxy_networks == []
    environment.setenv("TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1,2001:db8::/32,::1")
    environment.setenv("FORWARDED_HEADER", "X-Forwarded-For")
    settings = Settings.load()
    assert list(map(str, settings.proxy_networks)) == [
        "10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "::1/128"
    ]  # fmt: skip
    assert settings.forwarded_header == "x-forwarded-for"


@pytest.mark.parametrize("value", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "*", "10.0.0.1,x"])
def test_other_proxies_are_refused(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("TRUSTED_PROXIES", value)
    environment.setenv("FORWARDED_HEADER", "X-Real-IP")
    told = faults()
    assert told[0].startswith("TRUSTED_PROXIES must list IP addresses and networks such as 10.0.0.0/8: ")
    assert told[1].startswith("FORWARDED_HEADER ")


@pytest.mark.parametrize("value", ["0.0.0.0/0", "10.0.0.0/8,::/0"])
def test_nobody_can_trust_everyone(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("TRUSTED_PROXIES", value)
    [told] = faults()
    assert "would believe everyone" in told


def test_in_development_only_this_machine_is_served(environment: pytest.MonkeyPatch) -> None:
    assert Settings.load().served_hosts == ()
    environment.setenv("ENVIRONMENT", "development")
    assert Settings.load().served_hosts == ("localhost", "127.0.0.1", "[::1]")
    environment.setenv("ALLOWED_HOSTS", "api.example.com, *.example.org,[2001:db8::1]")
    assert Settings.load().served_hosts == ("api.example.com", "*.example.org", "[2001:db8::1]")


@pytest.mark.parametrize("value", ["https://api.example.com", "api.example.com:443", "a/b", "*", "a.*.b"])
def test_a_host_is_a_name_without_more(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("ALLOWED_HOSTS", value)
    [told] = faults()
    assert told.startswith("ALLOWED_HOSTS must list names")


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("::", "::"),
        ("0.0.0.0", "0.0.0.0"),
        ("gateway.internal", "gateway.internal"),
    ],
)
def test_the_host_is_an_address_or_a_name(environment: pytest.MonkeyPatch, value: str, host: str) -> None:
    environment.setenv("HOST", value)
    assert Settings.load().host == host


@pytest.mark.parametrize("value", ["127.0.0.1:8000", "http://gateway", "[::1]:8000", "a b", "::zz"])
def test_another_host_is_refused(environment: pytest.MonkeyPatch, value: str) -> None:
    environment.setenv("HOST", value)
    assert faults() == ["HOST must be an address or a name, without a port"]


def test_tls_needs_both_files(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GRPC_CLIENT_CA_FILE", "/ca.pem")
    assert faults() == [
        "GRPC_CLIENT_CA_FILE needs TLS_CERT_FILE and TLS_KEY_FILE: clients show certificates over TLS alone"
    ]
    environment.setenv("TLS_CERT_FILE", "/server.pem")
    assert faults() == ["TLS_KEY_FILE and TLS_CERT_FILE go together: set both or none"]
    environment.setenv("TLS_KEY_FILE", "/server.key")
    assert str(Settings.load().tls_key_file) == "/server.key"
    environment.delenv("TLS_CERT_FILE")
    assert "TLS_KEY_FILE and TLS_CERT_FILE go together: set both or none" in faults()


def test_fingerprints_have_a_key_of_their_own(environment: pytest.MonkeyPatch) -> None:
    derived = Settings.load().fingerprint_secret
    assert derived == Settings.load().fingerprint_secret
    assert SECRET.encode() not in derived
    environment.setenv("N8N_INTERNAL_AUTH_SECRET", "t" * 64)
    assert Settings.load().fingerprint_secret != derived
    environment.setenv("FINGERPRINT_KEY", "a-key-for-fingerprints-of-32-bytes")
    own = Settings.load().fingerprint_secret
    environment.setenv("N8N_INTERNAL_AUTH_SECRET", SECRET)
    assert Settings.load().fingerprint_secret == own
    assert "a-key-for-fingerprints" not in repr(Settings.load())
    environment.setenv("FINGERPRINT_KEY", "too-short-hunter2")
    assert faults() == ["FINGERPRINT_KEY needs at least 32 bytes; `openssl rand -hex 32` makes one"]
