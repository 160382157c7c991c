"""An independent reading of protobuf for the tests of ours: Google's package, fed with tables of fields."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_KIND = {"double": 1, "float": 2, "int64": 3, "uint64": 4, "int32": 5, "bool": 8, "string": 9, "bytes": 12}
_MESSAGE = 11

Table = Mapping[str, Mapping[str, tuple[int, str]]]
"""By message the fields: number and kind.  Before the kind may stand "repeated" or, for a member of the message's one
oneof, "oneof"; a kind that is no scalar's name is a message's."""


class Google:
    def messages(self, table: Table) -> Any:
        """The classes of the messages."""
        file = descriptor_pb2.FileDescriptorProto(name="tables.proto", package="tables", syntax="proto3")
        for name, fields in table.items():
            message = file.message_type.add(name=name)
            for field_name, (number, form) in fields.items():
                prefix, _, kind = form.rpartition(" ")
                field = message.field.add(name=field_name, number=number, label=3 if prefix == "repeated" else 1)
                if kind in _KIND:
                    field.type = _KIND[kind]
                else:
                    field.type, field.type_name = _MESSAGE, f".tables.{kind}"
                if prefix == "oneof":
                    if not message.oneof_decl:
                        message.oneof_decl.add(name="choice")
                    field.oneof_index = 0
        pool = descriptor_pool.DescriptorPool()
        pool.Add(file)
        return SimpleNamespace(
            **{name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tables.{name}")) for name in table}
        )


@pytest.fixture(scope="session")
def google() -> Google:
    return Google()
