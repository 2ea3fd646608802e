"""A client that returns the model it got, or (``width`` above 0) meta-learns its picture in a lean
loop."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """The arrays with one example."""
    arrays = message.content["arrays"]
    if context.run_config["width"]:
        from sim.bench.loops import train_alone

        model = arrays["model"].numpy()  # type: ignore[union-attr]
        number = int(message.content["config"]["server-round"])  # type: ignore[arg-type]
        trained = train_alone(
            dict(context.run_config), model, number, int(context.node_config["partition-id"])
        )
        arrays = ArrayRecord({"model": Array(trained)})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)
