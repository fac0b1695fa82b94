import pytest

# By their own names: the package they are in may have been imported already, by other tests' conftest.
for _part in ("containers", "exec", "images", "lab", "networks"):
    pytest.register_assert_rewrite(f"tests.contract.suite.{_part}")
