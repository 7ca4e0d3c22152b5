"""Run a service while other tasks use it (tutorial_services)."""

import toilfn as toil


@toil.service
class Demo(toil.Service[str]):
    """A service that would start and stop a database."""

    def start(self) -> str:
        print("the database starts")
        return "loginCredentials"

    def check(self) -> bool:
        # False means that the service has ended; after an exception, its clients run again with a new service.
        return True

    def stop(self) -> None:
        print("the database stops")


@toil.task
def db_fn(login_credentials: str) -> None:
    print(f"connected with {login_credentials}")


if __name__ == "__main__":
    toil.compute(db_fn(Demo()), stream_logs=True)
