"""The calls about the users of an app."""

from __future__ import annotations

from functools import partial
from typing import Any

from original_async.calls.base import Calls
from original_async.calls.pages import Listing
from original_async.calls.reading import data_or_none, read_created
from original_async.calls.reconciling import Rules
from original_async.models.users import User, UserRequest, label_of
from rewards_core.errors import UnexpectedResponse
from rewards_core.http.messages import Effect, Request
from rewards_core.json import dumps
from rewards_core.validation import check_id, check_name

CREATE = Rules(
    call="create_user",
    noun="user",
    key="user",
    about=("user", "email", "external"),
    advice="repeat the call: it returns the user if there is one",
    reuse="read the user that has it, or use another address and id",
    describe=lambda held: f"({label_of(held)})",
    excludes=lambda _asked, _found, sure: sure,
)


class UserCalls(Calls):
    """Create users and read them."""

    async def create_user(
        self, *, email: str | None = None, user_external_id: str | None = None, timeout: float | None = None
    ) -> User:
        """Create a user; see https://docs.getoriginal.com/docs/create_user-api.

        The vendor keeps e-mail addresses and external ids unique in an app. So with one of them, retries are safe, and a user who
        exists already is returned with `recovered=True`, also if an earlier call created it. Without both, the call is never sent
        twice, and a user whose creation was not confirmed cannot be found.

        Args:
            email: The e-mail address.
            user_external_id: Your own id for the user.
            timeout: Seconds for this call including the look-up, above 0; by default the client's `timeouts.total`.

        Returns:
            The user with its uid; or, if it was found, as `get_user` returns it.

        Raises:
            Conflict: the e-mail address or the external id belongs to another user; this call created nothing.
            RequestRejected: the vendor rejected the request; this call did nothing.
            ConnectFailed: this call sent nothing.
            OutcomeUnknown: the user may have been created. Its `request` is a `UserRequest`.
            UnexpectedResponse: the answer was a redirect, which is never followed; check the base URL.
            ValueError, TypeError, ConfigurationError, ClientClosed: this call sent nothing.
        """
        content = {}
        if email is not None:
            content["email"] = check_name(email, "email")
        if user_external_id is not None:
            content["user_external_id"] = check_name(user_external_id, "user_external_id")

        def asked() -> UserRequest:
            return UserRequest(email=email, user_external_id=user_external_id, scope=self._scope)

        def build(created: dict[str, Any]) -> User:
            return User(uid=created["uid"], email=email, user_external_id=user_external_id, scope=self._scope, raw=created)

        if not content:
            deadline = self._transport.deadline(timeout)
            return build(
                await self._transport.call(
                    Request(
                        operation="create_user",
                        method="POST",
                        url=self._fixed_url("user"),
                        effect=Effect.BARE,
                        read=read_created,
                        body=b"{}",
                        asked=asked(),
                        advice="the user has neither e-mail address nor external id, so it cannot be found",
                        deadline=deadline,
                    )
                )
            )

        async def look_up(deadline: float) -> Listing[User]:
            found = {}
            for name, value in content.items():
                user = await self._find_user(name, value, deadline)
                if user is not None:
                    found[user.uid] = user
            return Listing(found=list(found.values()))

        return await self._write(
            CREATE,
            label_of(asked()),
            dumps(content),
            self._fixed_url("user"),
            effect=Effect.KEYED,
            asked=asked,
            build=build,
            look_up=look_up,
            timeout=timeout,
        )

    async def get_user(self, uid: str, *, timeout: float | None = None) -> User:
        """Read a user; see https://docs.getoriginal.com/docs/get-user-details.

        Args:
            uid: The user's uid.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Raises:
            NotFound: there is no such user.
            VendorError: the call failed.
        """
        return await self._reader.one("get_user", User, check_id(uid, "uid"), self._transport.deadline(timeout), "user")

    async def get_user_by_email(self, email: str, *, timeout: float | None = None) -> User | None:
        """Find a user by e-mail address; see https://docs.getoriginal.com/docs/get-user-details-by-email.

        The vendor takes the address in the query of the URL, so it may stand in the logs of proxies.

        Args:
            email: The e-mail address.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Returns:
            The user; None if the app has none with this address.

        Raises:
            VendorError: the call failed.
        """
        return await self._find_user("email", check_name(email, "email"), self._transport.deadline(timeout))

    async def get_user_by_user_external_id(self, user_external_id: str, *, timeout: float | None = None) -> User | None:
        """Find a user by your own id; see https://docs.getoriginal.com/docs/get-user-details-by-user-external-id.

        Args:
            user_external_id: Your own id for the user.
            timeout: Seconds for this call, above 0; by default the client's `timeouts.total`.

        Returns:
            The user; None if the app has none with this id.

        Raises:
            VendorError: the call failed.
        """
        external_id = check_name(user_external_id, "user_external_id")
        return await self._find_user("user_external_id", external_id, self._transport.deadline(timeout))

    async def _find_user(self, name: str, value: str, deadline: float) -> User | None:
        found = await self._reader.get(f"get_user_by_{name}", partial(data_or_none, User), deadline, "user", query={name: value})
        if found is None:
            return None
        told = getattr(found, name)
        if told is None or told.casefold() != value.casefold():
            raise UnexpectedResponse(f"data.{name}: the answer is about another user", path=f"data.{name}")
        return self._reader.scoped(found)
