"""What the agent says of itself: readiness, status and metrics, and the ports they are asked at. Changes nothing."""
