"""From raw reviews to graphs and prompt batches."""
