"""A service that runs while others use it (tutorial_services)."""

import toilfn as toil


@toil.service
class Demo(toil.Service[str]):
    """Starts and stops a database, or would."""

    def start(self) -> str:
        print("the database starts")
        return "loginCredentials"

    def check(self) -> bool:
        return True  # False: it has ended well; an exception: it has failed, and its clients run again with a new one

    def stop(self) -> None:
        print("the database stops")


@toil.task
def db_fn(login_credentials: str) -> None:
    print(f"connected with {login_credentials}")


if __name__ == "__main__":
    toil.compute(db_fn(Demo()), stream_logs=True)
