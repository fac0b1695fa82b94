import pytest

pytest.register_assert_rewrite("docker_rollback.testing")
