"""Who is asking? An API key, a browser's signed cookie, or, where no key is required, anybody who knows a job's id.

  key      Authorization: Bearer s2s_<id>_<secret>; only a hash of the secret is kept
  visitor  the cookie that the page gets: an id that we signed; it owns the jobs that this browser sends
  nobody   where keys are not required (loopback): jobs without an owner, readable by their unguessable id

A job of another owner does not exist, as far as a caller can see.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from sqlalchemy import and_, insert, or_, select, update

from api_service.api.database import NOW, Database, api_keys, whole
from s2s.config import Settings
from s2s.errors import ArtifactError, InputError

COOKIE = "s2s_visitor"
COOKIE_AGE_S = 30 * 86_400
SCOPES = ("read", "write", "admin")  # see own jobs; send, cancel, delete and share them; all of it on everybody's
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Caller:
    owner: str  # "key:<id>", "visitor:<id>", or "" for nobody
    scopes: frozenset[str]

    def may_see(self, owner: str) -> bool:
        return owner in ("", self.owner) or "admin" in self.scopes


class Signer:
    """What only we can make, from one secret. Purposes do not mix."""

    def __init__(self, secret: bytes):
        self._secret = secret

    @classmethod
    def of(cls, config: Settings) -> Signer:
        """The secret of the settings; for the embedded database else a random one that is kept in the data directory.

        Raises ArtifactError where replicas would each make their own.
        """
        if config.secret_key:
            if len(config.secret_key.get_secret_value()) < 32:
                raise ArtifactError("S2S_SECRET_KEY is too short.", hint="Use `openssl rand -hex 32`.")
            return cls(config.secret_key.get_secret_value().encode())
        if config.database_url:
            raise ArtifactError("S2S_SECRET_KEY is not set.", hint="Replicas must share it: `openssl rand -hex 32`.")
        return cls(_kept_secret(config.data_dir / "secret"))

    def token(self, purpose: str, *parts: str) -> str:
        """43 URL-safe characters' worth of HMAC-SHA256, as 64 hex digits."""
        return hmac.new(self._secret, "|".join((purpose, *parts)).encode(), hashlib.sha256).hexdigest()

    def cookie(self, visitor: str) -> str:
        return f"{visitor}.{self.token('visitor', visitor)}"

    def visitor(self, cookie: str) -> str | None:
        """The id in a cookie that we made, else None."""
        visitor, _, signature = cookie.partition(".")
        return visitor if hmac.compare_digest(self.token("visitor", visitor).encode(), signature.encode()) else None


def _kept_secret(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    part.touch(mode=0o600)
    part.write_text(secrets.token_hex(32))
    try:
        path.hardlink_to(part)  # whoever is first
    except FileExistsError:
        pass
    finally:
        part.unlink()
    return path.read_bytes()


@dataclass(frozen=True)
class ApiKey:
    id: str
    name: str
    scopes: list[str]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


@whole
class KeyStore:
    """API keys: `s2s keys create|list|revoke`."""

    def __init__(self, database: Database):
        self._read, self._write = database.read, database.write

    async def create(self, name: str, scopes: list[str], ttl_s: float | None = None) -> str:
        """The key, which is told this once. Raises InputError."""
        if unknown := set(scopes) - set(SCOPES):
            raise InputError(f"Unknown scope {min(unknown)!r}.", hint=f"Scopes are {', '.join(SCOPES)}.")
        if not 0 < len(name) <= 100:
            raise InputError("A key has a name of 1 to 100 characters.")
        key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        values = {"id": key_id, "name": name, "hash": _hash(secret), "scopes": sorted(set(scopes)), "created_at": NOW}
        if ttl_s is not None:
            values["expires_at"] = NOW + ttl_s
        await self._write(lambda db: db.execute(insert(api_keys).values(values)))
        return f"s2s_{key_id}_{secret}"

    async def all(self) -> list[ApiKey]:
        columns = [column for column in api_keys.c if column.name != "hash"]
        query = select(*columns).order_by(api_keys.c.created_at)
        return await self._read(lambda db: [ApiKey(**row._mapping) for row in db.execute(query)])

    async def revoke(self, key_id: str) -> bool:
        valid = and_(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
        revoked = update(api_keys).where(valid).values(revoked_at=NOW).returning(api_keys.c.id)
        return await self._write(lambda db: db.scalar(revoked)) is not None

    async def check(self, key: str) -> Caller | None:
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        valid = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > NOW)
        query = select(api_keys.c.hash, api_keys.c.scopes).where(
            api_keys.c.id == key_id[:16], api_keys.c.revoked_at.is_(None), valid
        )
        row = await self._read(lambda db: db.execute(query).one_or_none())
        if row is None or prefix != "s2s" or not hmac.compare_digest(row.hash, _hash(secret)):
            return None
        return Caller(f"key:{key_id}", frozenset(row.scopes))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()  # of 256 random bits: nothing to guess, so no slow hash


class Gatekeeper:
    def __init__(self, config: Settings, signer: Signer, keys: KeyStore):
        self._config, self._signer, self._keys = config, signer, keys
        self._origins = {origin.strip().rstrip("/") for origin in config.cors_origins.split(",") if origin.strip()}

    async def caller(self, request: Request, response: Response) -> Caller:
        """Raises InputError key_required, bad_key, forbidden or cross_site. May set the visitor's cookie."""
        self._refuse_other_sites(request)
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            caller = await self._keys.check(key.strip())
            if caller is None:
                raise InputError("This API key is not valid.", code="bad_key", hint="It may have been revoked.")
            if request.method not in SAFE_METHODS and not caller.scopes & {"write", "admin"}:
                raise InputError(
                    "This API key may only read.", code="forbidden", hint="Use one with the scope `write`."
                )
            return caller
        visitor = self._signer.visitor(request.cookies.get(COOKIE, ""))
        if self._config.anonymous_allowed or not self._config.keys_required:
            if visitor:
                return _visitor(visitor)
            if not self._config.keys_required:
                return Caller("", frozenset(("read", "write")))
            if request.method == "POST":  # a browser that came in by another door than the page
                return _visitor(self.welcome(request, response))
            return Caller("visitor:", frozenset(("read",)))
        raise InputError("An API key is required.", code="key_required", hint="Send `Authorization: Bearer s2s_...`.")

    def welcome(self, request: Request, response: Response) -> str:
        """Gives a browser its cookie, or the same one for another while. Returns the visitor's id."""
        visitor = self._signer.visitor(request.cookies.get(COOKIE, "")) or secrets.token_hex(16)
        response.set_cookie(
            COOKIE,
            self._signer.cookie(visitor),
            COOKIE_AGE_S,
            path=request.scope.get("root_path", "") or "/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        return visitor

    def _refuse_other_sites(self, request: Request) -> None:
        """A page of another site must not act in the name of this browser, nor use a gateway on loopback."""
        origin = request.headers.get("origin")
        if request.method in SAFE_METHODS or origin is None or origin.rstrip("/") in self._origins:
            return
        if request.headers.get("sec-fetch-site") == "same-origin":  # a browser's word; proxies may change Host
            return
        if urlsplit(origin).netloc != request.headers.get("host"):
            raise InputError("Pages of other sites may not do this.", code="cross_site", hint="See S2S_CORS_ORIGINS.")


def _visitor(visitor: str) -> Caller:
    return Caller(f"visitor:{visitor}", frozenset(("read", "write")))


async def caller_of(request: Request, response: Response) -> Caller:
    return await request.app.state.service.gatekeeper.caller(request, response)


CallerOf = Annotated[Caller, Depends(caller_of)]
